"""Pages: records as people see them in a browser, a notebook or a file, without a server."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, page="View", packing="PageRows")
