"""The model that `ail evaluate`, `ail upscale` and `ail export` are asked for; all take the same words."""

from typing import Any

from ail_ray.delivery.named import CHAMPION, find_network
from ail_ray.errors import ConfigError
from ail_ray.networks.architectures import Network
from ail_ray.networks.code import Code, label, resolve


def chosen_model(word: str, scale: int, network: Any = None) -> Network:
    """A network by a word for it: those of `find_network`, and `champion`, the best student for a scale so far.

    Args:
        network: names the code of a network of the user's own, or is its class.

    Raises:
        FileError: there is nothing of that name, or its file cannot be used.
        ConfigError: MLflow knows no champion for this scale, or cannot be asked.
    """
    code = resolve(network, "network") if network is not None else ""
    if word != CHAMPION:
        model = find_network(word, code)
    else:
        from ail_ray.tracking.champion import load_champion

        model = load_champion(scale, code)
    if code and not isinstance(model.made.network, Code):
        raise ConfigError([f"network: {word} is {model.made}, which needs no {label(code)}"])
    return model
