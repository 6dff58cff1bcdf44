"""Tools; checking a spec never runs this file."""

raise SystemExit("a project's code was run")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def multiple(a: int) -> int:
    """Double a number."""
    return 2 * a


class Calc:
    """A calculator."""

    @staticmethod
    def add(a: int) -> int:
        """Add one."""
        return a + 1
