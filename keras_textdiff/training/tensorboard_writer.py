"""Scalars in the files that TensorBoard reads, written without TensorFlow."""

import pathlib
import socket
import struct
import time

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed


def _make_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _make_table()


class TensorBoardWriter:
    """Appends scalars to a new event file.

    An event file holds TFRecords (length, checksum, data, checksum), each a protocol buffer
    `Event` of tensorflow/core/util/event.proto; of its fields only a few are needed here.

    Args:
        folder: str or path, made where it is missing; runs are told apart by their folders.
        step: int, the last step that still counts: TensorBoard forgets what earlier files of the
            folder say about later ones.
    """

    def __init__(self, folder, step=0):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = open(folder / name, "wb")  # noqa: SIM115 (closed by `close`)
        self._write(0, _bytes(3, b"brain.Event:2"))
        if step:
            self._write(step + 1, _bytes(7, _integer(1, 1)))  # session_log: START

    def write(self, step, scalars):
        """Write numbers of a step.

        Args:
            step: int.
            scalars: dict from tag to number.
        """
        values = [
            _bytes(1, _bytes(1, tag.encode()) + struct.pack("<Bf", 2 << 3 | 5, value))
            for tag, value in scalars.items()
        ]
        self._write(step, _bytes(5, b"".join(values)))
        self._file.flush()

    def _write(self, step, content):
        event = struct.pack("<Bd", 1 << 3 | 1, time.time()) + _integer(2, step) + content
        length = struct.pack("<Q", len(event))
        for part in (length, event):
            self._file.write(part + struct.pack("<I", _masked_checksum(part)))

    def close(self):
        """Close the file."""
        self._file.close()


def _integer(field, value):
    """Return a field of a protocol buffer, a number."""
    return _varint(field << 3) + _varint(value)


def _bytes(field, value):
    """Return a field of a protocol buffer, a string or a message."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value):
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _masked_checksum(data):
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = _TABLE[(checksum ^ byte) & 255] ^ checksum >> 8
    checksum ^= 0xFFFFFFFF
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
