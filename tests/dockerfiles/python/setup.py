from setuptools import setup

setup(
    name="tally",
    version="3.1",
    packages=["tally"],
    entry_points={"console_scripts": ["tally = tally:main"]},
)
