"""Opening HDF5 files, also on file systems that know no locks."""

import errno
from pathlib import Path

import h5py

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def open_hdf5(path: str | Path, mode: str = "r") -> h5py.File:
    """Opens a file; without a lock if its file system has none: features.h5 is only ever replaced
    as a whole, and the lock of the run keeps a second writer away. Raises OSError."""
    try:
        return h5py.File(path, mode)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return h5py.File(path, mode, locking=False)
