"""What can keep a stack from running; the message says what, where and what to do."""


class StackError(Exception):
    """The embedded stack cannot do what was asked."""
