"""beartype with the numeric tower: an int is a float, as for mypy. On a machine without beartype shapes go unchecked."""

try:
    from beartype import BeartypeConf, beartype
except ImportError:

    def typechecker(function):
        return function

else:
    typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
