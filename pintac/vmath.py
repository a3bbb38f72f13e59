"""The functions of the VPU, defined to the bit.

Each is a fixed sequence of fp32 operations, every one of them correctly rounded (round-half-even, subnormals kept, no
fused multiply-add, no reordering), of integer operations on the bits, and of look-ups in tables of at most 32 entries.
The docstrings give the sequence; an engine that follows it, with the words of `TABLES`, gets the same bits on any
machine. Notation: `a*b+c` is two roundings; `<-` is one fp32 operation a sign; `bits(x)` reinterprets.

Errors were measured on *all* fp32 arguments of the domain against double precision (1 ulp: the spacing of fp32 numbers
at the true value):

    exp 0.57 (0.77 subnormal results)   log 0.80   tanh 1.00   sigmoid 2.00   erf 1.01   sin, cos 1.55 on |x| <= 2**15

exp, log, tanh, sigmoid and erf never decrease, without exception. tanh, erf and sin are odd and cos is even, exactly.
NaN gives NaN; here the canonical quiet NaN 0x7fc00000, but which NaN it is is no part of the contract.
(Numerics, section 3; `tools/make_vmath_tables.py` makes the tables.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

# fp32 bit patterns as tools/make_vmath_tables.py prints them.
# fmt: off
_WORDS: dict[str, tuple[str, ...]] = {
    "exp": (
        "00000000 3447efa4 b6900106 371e5f3c b5fb082e 353beb8d b719c189 3771be36 "
        "b6c20417 b6bc849a b6fa051d b63d0b40 37b67e77 3789de57 b7b2c1ca b6d187ab "
        "37e97df4 37991dd4 b80ca126 37d9dd92 b82c2147 b81d3158 381dbe98 b7fda2f1 "
        "378dfcef b826d199 b69b0d4b b718c6e7 b82581ca 389d1713 b86fa1eb b5ee3f66",
        "3f800000 3f82cd85 3f85aae9 3f8897ba 3f8b95d3 3f8ea433 3f91c42b 3f94f463 "
        "3f98382a 3f9b8d73 3f9ef580 3fa27061 3fa5fdea 3fa9a0a4 3fad5931 3fb1243e "
        "3fb503a9 3fb8fad2 3fbd0a43 3fc12b04 3fc5693d 3fc9bbad 3fce2290 3fd2a9bf "
        "3fd7440e 3fdbfdf5 3fe0cd23 3fe5b990 3feac326 3fefe020 3ff52913 3ffa83d0",
    ),
    "exp_tail": (
        "3f000044 3e2aaae4",
    ),
    "exp_reduction": (
        "4238aa3b 3cb16000 3710bfbf",
    ),
    "log": (
        "3eaaaaa3 be800000 3e4cd2a3 be2aaf8b 3e1197f4 bdfde0f3 3df37a77 bdf0251d "
        "3d8b5d5e",
    ),
    "log_reduction": (
        "3f317000 3805fdf4",
    ),
    "sin": (
        "be2aaaa3 3c0883bf b94cab58",
    ),
    "cos": (
        "3d2aaaa5 bab60617 37ccf567",
    ),
    "trig_reduction": (
        "3f22f983 3fc90000 39fd8000 34a88000 2e85a309",
    ),
    "tanh": (
        "00000000 3dafff73 3dcffef3 3df0021a 3e0ffc3b 3e300350 3e5004dc 3e70043d "
        "3e8ffb29 3eb00034 3ed00226 3eeffa63 3f0ffe76 3f2ffe3e 3f500278 3f6ffcad "
        "3f90046f 3fb00320 3fcfff88 3ff0003b 4010049f 4030057e 404ffe96 4070040e "
        "40900269 40b002f9 40cffa24 40f005dc 410a05dc 41140000 41140000 41140000",
        "00000000 3daf90dd 3dcf48a1 3deeea5c 3e0f0b36 3e2e4cbb 3e4d3438 3e6bb732 "
        "3e8c4d53 3ea96191 3ec545c5 3edfd2ab 3f028314 3f18aace 3f2bc5db 3f3bea94 "
        "3f4f316a 3f613dbc 3f6ce35b 3f743c5a 3f7a60b9 3f7deae0 3f7f3b34 3f7fb795 "
        "3f7fefd6 3f7ffdd0 3f7fffb4 3f7ffff6 3f7fffff 3f800000 3f800000 3f800000",
        "3f800000 3f7e1e62 3f7d60a6 3f7c841e 3f7b0128 3f78953a 3f75b835 3f726f62 "
        "3f6cc6d5 3f63fb82 3f59fee3 3f4f13d3 3f3d769d 3f24f4b9 3f0cbe15 3eec1eea "
        "3eb09e1a 3e6749b2 3e133019 3db7e732 3d31ef21 3c84bd3a 3bc4805f 3b10c188 "
        "3a014cc6 388c005d 3717e8a4 35a40863 340a343e 00000000 00000000 00000000",
        "00000000 bdae4681 bdcd2902 bdeba9fa be0c40a0 be293fef be44f6a3 be5f39c0 "
        "be81c440 be96d7eb bea7fc8e beb50cad bec12e73 bec4beb8 bebcdf7f bead52f6 "
        "be8ef236 be4b7fe1 be08332f bdaf73c0 bd2e055b bc83a6ad bbc3e58b bb10959a "
        "ba011752 b88bcdde b716f7b5 b5c27eb7 b43b3d19 00000000 00000000 00000000",
        "beaaaadb bea4e959 bea3f158 bea21620 be9db445 be97714a be8ffd69 be87c2a6 "
        "be747e55 be4c1b1f be2138a3 bdeb8d06 bd5ea9c5 3c6bd169 3d8390c2 3dc21198 "
        "3de347e3 3dcbe87a 3d99f087 3d542cda 3cddca18 3c2cad44 3b81d0cd 3ac05a89 "
        "39ac10bf 383a6bd4 36ca49f0 3559091a 33b4bc34 00000000 00000000 00000000",
        "38a04ffb 3d5f71aa 3d856101 3d991407 3db5269e 3dd7d5da 3df6d895 3e091d9c "
        "3e196c2e 3e27fdd8 3e2e08e3 3e2c21d3 3e1cf0b9 3df4a361 3da39c43 3d31abed "
        "3b703fd5 bcace9b1 bccdd13b bcaacc37 bc4ae0fd bba8a350 bb01b494 ba41ca86 "
        "b93493c7 b7c3dc7d b65d9075 34947b53 3340322d 00000000 00000000 00000000",
        "3e0770b4 c1859fc9 409b7a2c 415a3588 3f8186fe 3f49e011 bec8c596 bf5bfc18 "
        "bb1d86b7 bc595151 3c528d75 bd27f1af bd23b66e bd851c48 bd704776 bd53b43d "
        "bd03430b bc1cd3b9 3ab469e4 3b978ed5 3b824581 3afaffe8 3a4a055c 3999881f "
        "388f7f2c 371bf78f 35a9633a 344bbea5 32b995df 00000000 00000000 00000000",
    ),
    "erf": (
        "00000000 3cb00372 3ccffe6e 3ceffd14 3d0ffa3d 3d300292 3d50058d 3d6ffa3c "
        "3d8ffee9 3daffbec 3dd00462 3df0006a 3e0fff72 3e2fff1f 3e500567 3e6ffc1f "
        "3e900272 3eb002c3 3ecffb39 3eefff44 3f1000b0 3f2ffe7c 3f50052e 3f6ffc37 "
        "3f8ffd59 3fb00490 3fcffbc8 3ff0009d 400ffe44 403001ed 405005dc 406ffa24",
        "00000000 3cc69451 3ceaa541 3d075c3f 3d2264f2 3d467be0 3d6a8693 3d873cf0 "
        "3da236e6 3dc616ce 3de9eae1 3e06ca03 3e216b61 3e44a712 3e678990 3e84f559 "
        "3e9e4fe1 3ebf0d8f 3ede6364 3efc372b 3f12dce5 3f2b4811 3f3fdfe5 3f50a8c7 "
        "3f636bb9 3f72bcd4 3f7a7a9c 3f7df31a 3f7fa017 3f7ff969 3f7fffb8 3f7ffffe",
        "3e0375d4 3f905daa 3f9056e7 3f904f02 3f904112 3f902a84 3f900f7c 3f8ff007 "
        "3f8fb865 3f8f5eb7 3f8ef33c 3f8e766c 3f8d9abe 3f8c3a79 3f8a97e8 3f88b6ab "
        "3f85724c 3f80556e 3f74ecb0 3f67e25f 3f528304 3f341170 3f1541ff 3eefebba "
        "3ea2fc67 3e2e61b2 3da4e04c 3d0964e1 3bea2678 3a199855 37f455ce 356d6a65",
        "00000000 bcc6841e bcea8afd bd07482c bd223cfa bd463da7 bd6a1f75 bd86edb4 "
        "bda1ae2c bdc51dab bde85040 be058f3c be1f4d76 be40cf69 be613cb2 be80292d "
        "be962321 beb0783b bec6fbbc bed9638f beecd47b bef795d0 bef29144 bee0e972 "
        "beb758cf be6fcd37 be05f3f6 bd80cf27 bc83a946 bad2ca88 b8c58eef b6468847",
        "bec08cca becbe907 bed5dd2e beaaa301 bebb895b bebbc331 bec1cebb bebec035 "
        "bebef131 bebba6b3 beba8dc6 beb8c0aa beb538ee beaf8b9a bea97169 bea28a33 "
        "be95c4a7 be82b5ab be5ad67f be2d537a bdce16eb bc5205ea 3d7f2f1a 3df25adb "
        "3e265721 3e21b601 3deb3f48 3d8a1d8d 3cb20e6b 3b34a4d7 394c2c49 3704cee7",
        "bbb5cefd bd025bad bd18c906 bc8d3433 be818238 3d18b35d 3d05a9e2 3ccce027 "
        "3d1c4cde 3d44f49e 3d705592 3d82af42 3d9ce85a 3dbc469a 3ddaf08f 3df6be73 "
        "3e0e2371 3e227de2 3e3103b8 3e398024 3e3a99e7 3e295f2d 3e07aea3 3dba4359 "
        "3ce83c6e bcf5eb29 bd4a4c88 bd2cb580 bc9e7d05 bb5f5708 b9a278c1 b7a49015",
        "3e89189b 457eda5d 45ededd9 c5eb8ed0 c3bdef1e c3a4ac25 436ef198 4156f87c "
        "41d5806c c16f5324 c018eb8e 3f09a6a3 bf0986b8 bffe8cb2 bee01978 3fcedb1a "
        "3d7b356c 3de4b554 3d88acae 3cd5944a bc52229a bd37a850 bd7c48a8 bd8f234f "
        "bd7a353a bcfae1a0 bb156e18 3c396f70 3c2d4e4c 3b396409 39aedbdf 37abe08c",
    ),
}
# fmt: on


def _table(rows: tuple[str, ...]) -> F32:
    words = np.array([[int(word, 16) for word in row.split()] for row in rows], dtype=np.uint32)
    table = words.view(np.float32)
    table.flags.writeable = False
    return table


TABLES: dict[str, F32] = {name: _table(rows) for name, rows in _WORDS.items()}
"""float32 [rows, entries]; the docstrings say what the rows are."""

TRIG_LIMIT = 32768.0  # largest |x| that sin and cos take

_MAGIC = np.float32(12582912.0)  # 1.5 * 2**23: x + MAGIC has round(x) in its low bits, x + MAGIC - MAGIC is round(x)
_MAGIC_BITS = np.int32(0x4B400000)
_ABS = np.int32(0x7FFFFFFF)
_SIGN = np.int32(-0x80000000)
_NAN = np.array(0x7FC00000, dtype=np.uint32).view(np.float32)[()]
_INF = np.float32(np.inf)
_CHUNK = 1 << 15  # elements worked on at a time: temporaries stay in cache


def _bits(x: F32) -> I32:
    return x.view(np.int32)


def _float(bits: I32) -> F32:
    return bits.view(np.float32)


def _elementwise(function: Callable[[F32], F32]) -> Callable[[F32], F32]:
    """Make a function of contiguous 1-D arrays one of arrays of any shape, quiet, with canonical NaNs."""

    @functools.wraps(function)
    def apply(x: F32) -> F32:
        if x.dtype != np.float32:
            raise TypeError(f"{function.__name__} takes float32, not {x.dtype}")
        flat = np.ascontiguousarray(x).reshape(-1)
        out = np.empty_like(flat)
        with np.errstate(all="ignore"):
            for i in range(0, flat.size, _CHUNK):
                out[i : i + _CHUNK] = function(flat[i : i + _CHUNK])
        out[np.isnan(out)] = _NAN
        return out.reshape(x.shape)

    return apply


# --- exponential and logarithm ----------------------------------------------------------------------------------------


def _power_of_two(k: I32) -> F32:
    """2**k for -126 <= k <= 127."""
    return _float((k + 127) << 23)


def _exp(x: F32) -> F32:
    (per_ln2, step_hi, step_lo), (c0, c1) = TABLES["exp_reduction"][0], TABLES["exp_tail"][0]
    offset, value = TABLES["exp"]
    a = np.where(x > 89, np.float32(89), x)
    a = np.where(a < -104, np.float32(-104), a)
    t = a * per_ln2 + _MAGIC
    nf = t - _MAGIC
    n = _bits(t) - _MAGIC_BITS
    j, k = n & 31, n >> 5
    r = (a - nf * step_hi) - nf * step_lo + offset.take(j)
    q = (r * c1 + c0) * (r * r) + r
    v = value.take(j)
    p = v * q + v
    half = k >> 1
    return p * _power_of_two(half) * _power_of_two(k - half)


@_elementwise
def exp(x: F32) -> F32:
    """e**x, elementwise. 0.57 ulp (0.77 where the result is subnormal); never decreases.

    With `[w, hi, lo] = exp_reduction`, `[c0, c1] = exp_tail`, `[offset, value] = exp` (32 entries each) and
    MAGIC = 12582912:

        a = 89 if x > 89 else x;  a = -104 if a < -104 else a          (a NaN stays)
        t <- a*w + MAGIC;  nf <- t - MAGIC;  n = bits(t) - bits(MAGIC)   (n = round(32 a / ln 2), nf the same as fp32)
        j = n & 31;  k = n >> 5 (arithmetic);  k1 = k >> 1;  k2 = k - k1
        r <- ((a - nf*hi) - nf*lo) + offset[j]
        q <- (r*c1 + c0) * (r*r) + r
        p <- value[j]*q + value[j]
        result <- (p * 2**k1) * 2**k2

    Two factors, so that subnormal results round once and overflow gives infinity.
    """
    return _exp(x)


@_elementwise
def log(x: F32) -> F32:
    """Natural logarithm, elementwise. 0.80 ulp; never decreases. log(+-0) = -inf, log(x < 0) = NaN, log(inf) = inf.

    With `c = log` (c0..c8) and `[hi, lo] = log_reduction`:

        s = x < 2**-126;  y <- x * 2**23 if s else x
        i = bits(y) - 0x3f3504f3 (int32);  k = i >> 23 (arithmetic);  m = float(bits(y) - (k << 23))
        kf = float(k - 23 if s else k)                                 (m in [sqrt(1/2), sqrt(2)), x = m 2**k)
        f <- m - 1;  z <- f*f
        p <- c8;  p <- p*f + c7;  ...  p <- p*f + c0
        p <- (p*f)*z;  p <- p + kf*lo;  p <- p - 0.5*z;  p <- f + p;  p <- p + kf*hi
        result = inf if x = inf;  -inf if x = 0;  NaN unless x >= 0;  else p
    """
    c, (hi, lo) = TABLES["log"][0], TABLES["log_reduction"][0]
    small = x < np.float32(2**-126)
    y = np.where(small, x * np.float32(2**23), x)
    k = (_bits(y) - np.int32(0x3F3504F3)) >> 23
    f = _float(_bits(y) - (k << 23)) - np.float32(1)
    kf = (k - np.where(small, np.int32(23), np.int32(0))).astype(np.float32)
    z = f * f
    p = np.full_like(f, c[8])
    for i in range(7, -1, -1):
        p = p * f + c[i]
    p = p * f * z
    p = p + kf * lo
    p = p - np.float32(0.5) * z
    p = f + p
    p = p + kf * hi
    p = np.where(x == _INF, _INF, p)
    p = np.where(x == 0, -_INF, p)
    return np.where(x >= 0, p, _NAN)


@_elementwise
def sigmoid(x: F32) -> F32:
    """1 / (1 + e**-x), elementwise. 2.00 ulp below 0, 1.50 above; never decreases.

        low = x < -2;  e = exp(x if low else -x)                       (exp as above)
        i <- 1 / (1 + e)
        result = e - e*(e*i) if low else i

    The second form is e/(1 + e) in a way that cannot decrease: there e < 0.14, and e grows faster than the error of the
    term taken off.
    """
    low = x < -2
    e = _exp(np.where(low, x, -x))
    i = np.float32(1) / (np.float32(1) + e)
    return np.where(low, e - e * (e * i), i)


# --- functions by look-up ---------------------------------------------------------------------------------------------


def _interval(magnitude_bits: I32, lowest_exponent: int) -> I32:
    """Which of 32 quarter octaves from 2**lowest_exponent on; everything below is in the first, above in the last."""
    return np.clip((magnitude_bits >> 21) - np.int32((127 + lowest_exponent) << 2), 0, 31)


@_elementwise
def tanh(x: F32) -> F32:
    """Hyperbolic tangent, elementwise. 1.00 ulp; odd; never decreases; tanh(x) = x for tiny x, 1 from 9.015 on.

    With `[centre, c0, ..., c5] = tanh` (32 entries each):

        b = bits(x) & 0x7fffffff;  k = clamp((b >> 21) - (123 << 2), 0, 31)
        a = float(b);  a = 9.25 if a > 9.25 else a                       (a NaN stays)
        d <- a - centre[k]                                             (exact)
        p <- c5[k]*d + c4[k];  p <- p*d + c3[k];  ...  p <- p*d + c0[k]
        result = p with the sign of x
    """
    centre, c0, c1, c2, c3, c4, c5 = TABLES["tanh"]
    b = _bits(x) & _ABS
    k = _interval(b, -4)
    a = _float(b)
    d = np.where(a > np.float32(9.25), np.float32(9.25), a) - centre.take(k)
    p = c5.take(k)
    for c in (c4, c3, c2, c1, c0):
        p = p * d + c.take(k)
    return _float(_bits(p) | (_bits(x) & _SIGN))


@_elementwise
def erf(x: F32) -> F32:
    """Error function, elementwise. 1.01 ulp; odd; never decreases; 1 from 3.917 on.

    With `[centre, c0, ..., c5] = erf` (32 entries each):

        b = bits(x) & 0x7fffffff;  k = clamp((b >> 21) - (121 << 2), 0, 31)
        a = float(b);  a = 4 if a > 4 else a                             (a NaN stays)
        d <- a - centre[k]                                             (exact)
        p <- c5[k]*d + c4[k];  p <- p*d + c3[k];  p <- p*d + c2[k];  p <- p*d + c1[k];  p <- p*d
        p <- p + (a if k = 0 else c0[k])
        result = p with the sign of x
    """
    centre, c0, c1, c2, c3, c4, c5 = TABLES["erf"]
    b = _bits(x) & _ABS
    k = _interval(b, -6)
    a = _float(b)
    a = np.where(a > 4, np.float32(4), a)
    d = a - centre.take(k)
    p = c5.take(k)
    for c in (c4, c3, c2, c1):
        p = p * d + c.take(k)
    p = p * d + np.where(k == 0, a, c0.take(k))
    return _float(_bits(p) | (_bits(x) & _SIGN))


# --- sine and cosine --------------------------------------------------------------------------------------------------


def _sin_or_cos(x: F32, quadrant_offset: int) -> tuple[F32, I32]:
    """sin(|x| + quadrant_offset pi/2) without its sign, and the quadrant (counted from offset, modulo 4)."""
    w, pio2_1, pio2_2, pio2_3, pio2_4 = TABLES["trig_reduction"][0]
    (s0, s1, s2), (c0, c1, c2) = TABLES["sin"][0], TABLES["cos"][0]
    a = np.abs(x)
    t = a * w + _MAGIC
    kf = t - _MAGIC
    quadrant = _bits(t) + np.int32(quadrant_offset)
    h = (a - kf * pio2_1) - kf * pio2_2
    g = kf * pio2_3
    r = h - g
    lost = (h - r) - g
    r = r + (lost - kf * pio2_4)
    u = r * r
    sine = ((s2 * u + s1) * u + s0) * u * r + r
    cosine = (((c2 * u + c1) * u + c0) * u - np.float32(0.5)) * u + np.float32(1)
    y = np.where(quadrant & 1, cosine, sine)
    return np.where(a <= np.float32(TRIG_LIMIT), y, _NAN), quadrant


@_elementwise
def sin(x: F32) -> F32:
    """Sine, elementwise. 1.55 ulp for |x| <= 32768, near the zeros too; odd; |sin x| <= 1.

    **A larger |x|, like an infinite one, gives NaN**: fp32 numbers are 2**-8 and more apart there, and a loud answer is
    better than a wrong one. With `[w, p1, p2, p3, p4] = trig_reduction` (pi/2 in four pieces, the first three short
    enough for kf*p1, kf*p2 and kf*p3 to be exact), `[s0, s1, s2] = sin`, `[c0, c1, c2] = cos`, MAGIC = 12582912:

        a = |x|;  t <- a*w + MAGIC;  kf <- t - MAGIC;  q = bits(t)         (only its two low bits count)
        h <- (a - kf*p1) - kf*p2;  g <- kf*p3;  r1 <- h - g
        e <- (h - r1) - g                                              (what rounding took from r1)
        r <- r1 + (e - kf*p4)
        u <- r*r
        sine   <- ((s2*u + s1)*u + s0)*u*r + r                         (left to right: ((..)*u)*r)
        cosine <- (((c2*u + c1)*u + c0)*u - 0.5)*u + 1
        y = cosine if q & 1 else sine
        result = NaN unless a <= 32768;  else y, sign flipped by the sign of x and by bit 1 of q
    """
    y, quadrant = _sin_or_cos(x, 0)
    return _float(_bits(y) ^ ((quadrant & 2) << 30) ^ (_bits(x) & _SIGN))


@_elementwise
def cos(x: F32) -> F32:
    """Cosine, elementwise. 1.54 ulp for |x| <= 32768, near the zeros too; even; |cos x| <= 1; NaN beyond.

    As `sin`, except that `q = bits(t) + 1` and that the sign of x is not used.
    """
    y, quadrant = _sin_or_cos(x, 1)
    return _float(_bits(y) ^ ((quadrant & 2) << 30))


@_elementwise
def sqrt(x: F32) -> F32:
    """Square root, elementwise, correctly rounded. sqrt(-0) = -0, sqrt(x < 0) = NaN."""
    return np.sqrt(x)


# --- comparison and choice --------------------------------------------------------------------------------------------


def minimum(a: F32, b: F32) -> F32:
    """The smaller one, elementwise (broadcasting). NaN if either is a NaN (IEEE `minimum`); -0 is smaller than +0."""
    _check(a, b)
    with np.errstate(all="ignore"):
        equal = _float(_bits(a) | _bits(b))  # of equal numbers only zeros differ: -0 if one is
        return np.where(a < b, a, np.where(b < a, b, np.where(a == b, equal, _NAN)))


def maximum(a: F32, b: F32) -> F32:
    """The larger one, elementwise (broadcasting). NaN if either is a NaN (IEEE `maximum`); +0 is larger than -0."""
    _check(a, b)
    with np.errstate(all="ignore"):
        equal = _float(_bits(a) & _bits(b))  # of equal numbers only zeros differ: -0 if both are
        return np.where(a > b, a, np.where(b > a, b, np.where(a == b, equal, _NAN)))


_COMPARISONS: dict[str, Callable[[F32, F32], NDArray[np.bool_]]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def compare(kind: str, a: F32, b: F32) -> F32:
    """1 where `a kind b` holds, else 0, elementwise (broadcasting); kind is eq, ne, lt, le, gt or ge.

    With a NaN on either side only `ne` holds. -0 equals +0.
    """
    _check(a, b)
    if kind not in _COMPARISONS:
        raise ValueError(f"no comparison {kind!r}: there are {', '.join(_COMPARISONS)}")
    with np.errstate(all="ignore"):
        return _COMPARISONS[kind](a, b).astype(np.float32)


def select(c: F32, a: F32, b: F32) -> F32:
    """a where c is not zero, else b, elementwise (broadcasting). Both zeros choose b, a NaN chooses a; bits pass."""
    _check(c, a, b)
    return np.where(c != 0, a, b)


def _check(*operands: F32) -> None:
    for x in operands:
        if x.dtype != np.float32:
            raise TypeError(f"float32 wanted, not {x.dtype}")
