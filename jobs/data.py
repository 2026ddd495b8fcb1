"""`ail data`, from a checkout."""

from ail_ray.commands.ail import start

if __name__ == "__main__":
    start("data")
