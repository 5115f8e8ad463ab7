from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="vrestore",
    version="0.1.0",
    description="Video restoration: one command, a real film in, a sharper and larger one out",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["vrestore", "vrestore.*"]), "vrestore.configs"],
    # configs/ lies at the top of the repository and travels inside the package.
    package_dir={"vrestore.configs": "configs"},
    package_data={
        "vrestore": ["py.typed"],
        "vrestore.models": ["weights/*"],
        "vrestore.configs": ["*/*.toml"],
        "vrestore.evaluate": ["niqe_pris_params.*"],
    },
    install_requires=[
        "torch>=2.6",
        "av>=14",
        "numpy",
        "ffmpeg-python",
        "imageio-ffmpeg",
        "tqdm",
        "safetensors",
        "platformdirs",
        "filelock",
    ],
    extras_require={
        "test": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "import-linter",
        ],
        "train": ["matplotlib", "decord", "tensorboard"],
        "evaluate": ["opencv-python-headless", "matplotlib", "lpips", "DISTS-pytorch"],
    },
    entry_points={"console_scripts": ["vrestore = vrestore.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Video :: Conversion",
    ],
)
