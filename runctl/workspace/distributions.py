"""Which distribution brings a module: the names that differ, and what big distributions bring along."""

from __future__ import annotations

import re
from collections.abc import Iterable

_DIFFERENT = {
    "attr": "attrs",
    "Bio": "biopython",
    "bs4": "beautifulsoup4",
    "cairo": "pycairo",
    "Crypto": "pycryptodome",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "git": "gitpython",
    "google.auth": "google-auth",
    "google.cloud": "google-cloud",
    "google.protobuf": "protobuf",
    "hydra": "hydra-core",
    "igraph": "python-igraph",
    "jwt": "pyjwt",
    "lightning_fabric": "lightning",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "MySQLdb": "mysqlclient",
    "nacl": "pynacl",
    "OpenSSL": "pyopenssl",
    "osgeo": "gdal",
    "absl": "absl-py",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "psycopg2": "psycopg2-binary",
    "pylab": "matplotlib",
    "pythoncom": "pywin32",
    "pytorch_lightning": "pytorch-lightning",
    "pywt": "pywavelets",
    "ruamel.yaml": "ruamel-yaml",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skopt": "scikit-optimize",
    "slugify": "python-slugify",
    "socks": "pysocks",
    "umap": "umap-learn",
    "usb": "pyusb",
    "websocket": "websocket-client",
    "wx": "wxpython",
    "Xlib": "python-xlib",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}

_ALTERNATIVES = {
    "opencv-python": {"opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"},
    "faiss-cpu": {"faiss-gpu", "faiss-gpu-cu12", "faiss"},
    "tensorflow": {"tensorflow-cpu", "tensorflow-gpu", "tensorflow-macos", "tf-nightly", "intel-tensorflow"},
    "torch": {"pytorch"},
    "psycopg2-binary": {"psycopg2"},
    "pycryptodome": {"pycrypto"},
    "jax": {"jax-cuda12-plugin"},
    "pytorch-lightning": {"lightning"},
    "lightning": {"pytorch-lightning"},
    "tensorboard": {"tensorflow", "tensorflow-cpu"},
    "cupy": {"cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"},
}

_NUMERIC = "numpy"
_BRINGS_ALONG = {
    "accelerate": "torch numpy huggingface-hub safetensors psutil pyyaml packaging",
    "datasets": "numpy pandas pyarrow huggingface-hub requests tqdm fsspec pyyaml packaging filelock dill",
    "diffusers": "numpy pillow huggingface-hub safetensors requests regex",
    "flax": "jax jaxlib numpy optax orbax-checkpoint msgpack rich pyyaml",
    "gymnasium": "numpy cloudpickle",
    "hydra-core": "omegaconf pyyaml antlr4-python3-runtime packaging",
    "jax": "jaxlib numpy scipy ml-dtypes opt-einsum",
    "keras": "numpy h5py rich",
    "lightning": "torch torchmetrics numpy tqdm pyyaml fsspec packaging pytorch-lightning lightning-utilities",
    "matplotlib": "numpy pillow python-dateutil packaging cycler kiwisolver pyparsing contourpy fonttools",
    "opencv-python": _NUMERIC,
    "opencv-python-headless": _NUMERIC,
    "optax": "jax jaxlib numpy chex",
    "pandas": "numpy python-dateutil pytz",
    "peft": "torch transformers accelerate numpy huggingface-hub safetensors tqdm psutil pyyaml packaging",
    "pytorch-lightning": "torch torchmetrics numpy tqdm pyyaml fsspec packaging lightning-utilities",
    "scikit-image": "numpy scipy pillow networkx imageio tifffile packaging",
    "scikit-learn": "numpy scipy joblib threadpoolctl",
    "scipy": _NUMERIC,
    "seaborn": "numpy pandas matplotlib",
    "sentence-transformers": "torch transformers numpy scipy scikit-learn pillow tqdm huggingface-hub",
    "stable-baselines3": "torch gymnasium numpy pandas matplotlib cloudpickle",
    "tensorflow": "numpy keras h5py protobuf requests packaging tensorboard absl-py six wrapt",
    "tensorflow-cpu": "numpy keras h5py protobuf requests packaging tensorboard absl-py six wrapt",
    "timm": "torch torchvision numpy pyyaml huggingface-hub safetensors",
    "torch": "filelock fsspec jinja2 networkx sympy typing-extensions",
    "torchaudio": "torch",
    "torchmetrics": "torch numpy packaging lightning-utilities",
    "torchvision": "torch numpy pillow",
    "transformers": "numpy huggingface-hub tokenizers safetensors tqdm requests regex pyyaml packaging filelock",
    "trl": "torch transformers accelerate datasets numpy",
    "ultralytics": "torch torchvision numpy opencv-python pillow pyyaml requests scipy matplotlib pandas psutil",
    "wandb": "requests pyyaml gitpython protobuf psutil click pydantic",
    "xgboost": "numpy scipy",
}
"""What commonly comes with a distribution (`brought_by` follows it further). It only keeps warnings quiet."""


def normalize(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distribution_of(module: str) -> str:
    """The distribution that most likely brings a module, for a hint: its own name where none is known."""
    for name in (module, ".".join(module.split(".")[:2]), module.split(".")[0]):
        if name in _DIFFERENT:
            return _DIFFERENT[name]
    return normalize(module.split(".")[0])


def brought_by(declared: Iterable[str]) -> frozenset[str]:
    """The declared distributions with all that is known to come with them, normalized."""
    found: set[str] = set()
    pending = [normalize(name) for name in declared]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += _BRINGS_ALONG.get(name, "").split()
    return frozenset(found)


def is_brought(module: str, brought: frozenset[str]) -> bool:
    """Whether one of these distributions seems to bring the module."""
    wanted = distribution_of(module)
    candidates = {wanted, normalize(module.split(".")[0]), *_ALTERNATIVES.get(wanted, ())}
    if candidates & brought:
        return True
    # `google.cloud` comes from `google-cloud-storage` and its like.
    return any(name.startswith(f"{wanted}-") for name in brought)
