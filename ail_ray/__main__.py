"""`python -m ail_ray` is the command `ail`."""

from ail_ray.commands.ail import main

if __name__ == "__main__":
    main()
