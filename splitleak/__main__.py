"""``python -m splitleak``, as the parts of a run start each other."""

from splitleak.cli import main

if __name__ == "__main__":
    main()
