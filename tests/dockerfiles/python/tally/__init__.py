"""Counts the lines of files, or of standard input."""
import getpass
import sys
from importlib.metadata import version


def main():
    for name in sys.argv[1:]:
        with open(name) as f:
            print(f"{name}: {len(f.readlines())} lines")
    print(f"tally {version('tally')} for {getpass.getuser()} in {sys.prefix}")
