"""Teacher forcing: what a model and its settings say of every token of a given text."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    teacher_forcing="Account Document TeacherForcing TokenDocument",
    windows="Windows",
)
