"""The value of an option `NAME=VALUE` of a training step's factory, as it is written on a command line."""

import ast


def setting_value(text: str) -> object:
    """A literal of Python, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
