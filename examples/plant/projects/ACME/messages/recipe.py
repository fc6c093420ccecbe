"""Looks a recipe up. An unknown one is an error, which reaches the caller as a HandlerError."""

RECIPES = {
    "lemonade": {"syrup_l": 80, "water_l": 900, "co2_g_per_l": 6.5},
    "iced tea": {"syrup_l": 120, "water_l": 880, "co2_g_per_l": 0},
}


def handleMessage(payload):
    name = payload["name"]
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}, there is: {', '.join(RECIPES)}")
    return RECIPES[name]
