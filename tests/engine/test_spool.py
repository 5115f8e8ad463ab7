"""Frames on disk: read again as they were, gone with the process."""

import errno
import io

import pytest
import torch

from vrestore.engine.spool import Spool
from vrestore.errors import OutputError


def item(seed, dtype=torch.uint16):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 1024, (6, 8), generator=g).to(dtype),
        torch.randint(0, 255, (3, 4), generator=g).to(torch.uint8),
        torch.rand(3, 2, 5, generator=g).transpose(1, 2),
    ]


def test_items_are_read_again_in_any_order_while_more_are_written(tmp_path):
    with Spool(tmp_path) as spool:
        for n in range(5):
            spool.append(item(n))
            for k in (n, 0, n // 2):
                for a, b in zip(spool[k], item(k), strict=True):
                    assert a.dtype == b.dtype
                    assert torch.equal(a, b)
        assert len(spool) == 5
        with pytest.raises(IndexError):
            spool[5]


def test_nothing_has_a_name_on_the_disk(tmp_path):
    with Spool(tmp_path) as spool:
        spool.append(item(0))
        assert list(tmp_path.iterdir()) == []


def test_items_of_another_form_are_refused(tmp_path):
    with Spool(tmp_path) as spool:
        spool.append(item(0))
        with pytest.raises(ValueError, match="item 1"):
            spool.append(item(1, torch.uint8))


def test_a_full_disk_is_said_with_what_to_do(tmp_path):
    with Spool(tmp_path) as spool:
        spool.append(item(0))

        class Full(io.RawIOBase):
            def writable(self):
                return True

            def seekable(self):
                return True

            def seek(self, place, whence=0):
                return place

            def write(self, data):
                raise OSError(errno.ENOSPC, "No space left on device")

        spool._file.close()
        spool._file = io.BufferedWriter(Full(), 1 << 20)  # which keeps back all that it can
        with pytest.raises(OutputError, match=r"No space left.*--propagation lookahead"):
            spool.append(item(1))
