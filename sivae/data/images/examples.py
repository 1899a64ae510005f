"""TensorFlow's `Example` messages that hold an image: `shape`, three whole numbers [C, H, W], and `data`, its bytes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from sivae.errors import DamagedImageError

# As `tensorflow/core/example/{example,feature}.proto` define them, without lists of floats. The map from names to
# features is written as what a map is on the wire: repeated pairs.
_SCHEMA = """
name: "sivae/example.proto" package: "sivae" syntax: "proto3"
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".sivae.Features" } }
message_type { name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".sivae.Entry" } }
message_type { name: "Entry"
  field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".sivae.Feature" } }
message_type { name: "Feature"
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".sivae.BytesList" }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".sivae.Int64List" } }
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
"""


def image_of(message: bytes, where: str) -> np.ndarray:
    """The image of a message.

    Args:
        message: an encoded Example.
        where: what to call it in errors.

    Returns:
        uint8 ``[C, H, W]`` with C = 1 or 3, to be read only.

    Raises:
        DamagedImageError: it is no Example, or not of an image.
    """
    from google.protobuf.message import DecodeError

    example = _example_class()()
    try:
        example.ParseFromString(message)
        features = {entry.key: entry.value for entry in example.features.feature}
    except (DecodeError, UnicodeDecodeError, MemoryError, RecursionError) as error:
        raise DamagedImageError(f"{where} is no Example of TensorFlow's, or damaged: {error}") from None
    if "shape" not in features or "data" not in features:
        have = ", ".join(sorted(map(ascii, features))[:8]) or "nothing"
        raise DamagedImageError(f"{where} holds {have}; expected 'shape' and 'data'")
    shape = list(features["shape"].int64_list.value)
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise DamagedImageError(f"{where} says that its shape is {shape[:8]}; expected [1 or 3, height, width]")
    data = features["data"].bytes_list.value
    if len(data) != 1 or len(data[0]) != shape[0] * shape[1] * shape[2]:
        have = " and ".join(f"{len(part):,}" for part in data[:3]) or "no"
        raise DamagedImageError(
            f"{where} holds {have} bytes of pixels, where an image of shape {shape} has "
            f"{shape[0] * shape[1] * shape[2]:,}; only uint8 pixels are read"
        )
    return np.frombuffer(data[0], np.uint8).reshape(shape)


@functools.cache
def _example_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()  # one of our own: TensorFlow, where it is loaded, has its own Example
    pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sivae.Example"))
