"""The only room that imports torch: layers, problems, operators; tracing to IR; the float twin."""

from pintac.accuracy import l2_rel
from pintac.frontend.adapters import builtin_step, load_seeded, load_step
from pintac.frontend.autodiff import AutodiffStep
from pintac.frontend.baselines import Baselines, trivial_baselines
from pintac.frontend.estimators import Estimator, OrthonormalDirections, QuasiRandom, SecondDifference, Stein
from pintac.frontend.layers import TTLinear, to_dense
from pintac.frontend.operators import dt, grad, laplacian
from pintac.frontend.optimizers import SGD, Adam, AdamW
from pintac.frontend.problem import Problem, Term, TrainStep
from pintac.frontend.samplers import At, Ball, Boundary, Mixture, Points, Product, Sampler, Sphere, Uniform
from pintac.frontend.schedules import constant, cosine_decay, exponential_decay, linear_decay, piecewise, warmup
from pintac.frontend.testset import TestSet, predict_float, test_set
from pintac.frontend.tracing import TracedStep, trace, trace_step
from pintac.frontend.twin import DOUBLE, SampledStep
from pintac.frontend.weights import as_tensors, discarded, initial_states

__all__ = [
    "DOUBLE",
    "SGD",
    "Adam",
    "AdamW",
    "At",
    "AutodiffStep",
    "Ball",
    "Baselines",
    "Boundary",
    "Estimator",
    "Mixture",
    "OrthonormalDirections",
    "Points",
    "Problem",
    "Product",
    "QuasiRandom",
    "SampledStep",
    "Sampler",
    "SecondDifference",
    "Sphere",
    "Stein",
    "TTLinear",
    "Term",
    "TestSet",
    "TracedStep",
    "TrainStep",
    "Uniform",
    "as_tensors",
    "builtin_step",
    "constant",
    "cosine_decay",
    "discarded",
    "dt",
    "exponential_decay",
    "grad",
    "initial_states",
    "l2_rel",
    "laplacian",
    "linear_decay",
    "load_seeded",
    "load_step",
    "piecewise",
    "predict_float",
    "test_set",
    "to_dense",
    "trace",
    "trace_step",
    "trivial_baselines",
    "warmup",
]
