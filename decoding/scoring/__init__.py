"""Teacher forcing: what a model and its settings say of every token of a given text."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    {
        "Account": "teacher_forcing",
        "Document": "teacher_forcing",
        "TeacherForcing": "teacher_forcing",
        "TokenDocument": "teacher_forcing",
        "Windows": "windows",
    },
)
