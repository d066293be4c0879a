"""Run by the isolation session: the installed wheel works with numpy, regex and ftfy alone."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from clip_tokenizer import Tokenizer

assert importlib.util.find_spec("torch") is None
tokenizer = Tokenizer.openai()
batch = tokenizer.encode_batch(["a photo of a cat", "don&#39;t"], context_length=8)
assert batch.shape == (2, 8)
assert batch[0].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
with tempfile.TemporaryDirectory() as directory:
    tokenizer.save(directory)
    assert Tokenizer.from_pretrained(directory).encode("a cat") == tokenizer.encode("a cat")
command = Path(sys.executable).with_name("clip-tokenizer")
done = subprocess.run([command, "encode"], input="a cat\n", text=True, capture_output=True)
assert done.returncode == 0, done.stderr
assert "2368" in done.stdout
print("clip-tokenizer works")
