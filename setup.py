"Everything about the package is said once, in settings.ini; this file hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here/"settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

statuses = ["1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta", "5 - Production/Stable"]
pythons = ["3.11", "3.12", "3.13"]
needs = {extra: cfg[f"{extra}_requirements"].split() for extra in ("dev", "gpu", "live", "real")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"].split(),
    classifiers=[f"Development Status :: {statuses[int(cfg['status']) - 1]}",
                 f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}",
                 "Topic :: Scientific/Engineering :: Artificial Intelligence",
                 *[f"Programming Language :: Python :: {v}" for v in pythons]],
    packages=find_packages(include=["povid_nb", "povid_nb.*"]),
    # the built-in model travels inside the package
    package_data={"povid_nb": ["tiny/*", "tiny/adapters/*/*", "data/*", "launch/*", "configs/*", "results/*",
                               "static/*", "real/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=needs,
    entry_points={"console_scripts": cfg["console_scripts"].split(),
                  "nbdev": ["povid_nb=povid_nb._modidx:d"]},   # lets nbdev link names in `backticks` to their pages
    zip_safe=False,
)
