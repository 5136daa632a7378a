"""Colours of pictures that colour-blind people can distinguish (Okabe and Ito)."""

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

ARMS = {"MDLM": VERMILION, "AR": BLUE}
SERIES = (VERMILION, ORANGE, PURPLE, BLUE, SKY, GREEN, BLACK)
