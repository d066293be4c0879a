from .class_names import ClassList
from .faults import BadImage, BadSample, DataError
from .formats import open_source
from .images import decode_image
from .samples import (
    Sample,
    Source,
    describe,
    source_faults,
    source_place,
    source_shards,
    source_warnings,
)
from .shards.files import ShardCache, check_url, open_location
from .shards.paths import expand_shards
from .shards.webdataset import sample_from_files
from .templates import DEFAULT_TEMPLATES, TEMPLATES_FILE, read_templates

__all__ = [
    "DEFAULT_TEMPLATES",
    "TEMPLATES_FILE",
    "BadImage",
    "BadSample",
    "ClassList",
    "DataError",
    "Sample",
    "ShardCache",
    "Source",
    "check_url",
    "decode_image",
    "describe",
    "expand_shards",
    "open_location",
    "open_source",
    "read_templates",
    "sample_from_files",
    "source_faults",
    "source_place",
    "source_shards",
    "source_warnings",
]
