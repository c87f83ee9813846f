"""What Han et al. report, and where.

Source: Han, Kenealy, Barua, Fiedel and Constant 2024, "Transfer Learning for Text Diffusion
Models", arXiv 2401.17181, Tables 1 to 3 and Figure 3. BLEU of WMT14, F1 of SQuAD, pass@80 of MBPP.
"""

TASKS = ("translation", "qa", "code")
METRICS = {"translation": "bleu", "qa": "f1", "code": "pass"}
TITLES = {
    "translation": "translation (BLEU)",
    "qa": "question answering (F1)",
    "code": "code (pass@k, percent)",
}

# Diffusion models of size Base: (architecture, pretraining objective) -> scores in TASKS' order.
TABLE_1 = {
    ("encoder-decoder", "prefix_lm"): (27.6, 75.8, 0.0),
    ("decoder", "prefix_lm"): (29.8, 77.4, 12.2),
    ("encoder-decoder", "span_corruption"): (28.7, 78.2, 0.0),
    ("decoder", "span_corruption"): (29.1, 80.6, 11.1),
}

# Decoders pretrained with the prefix LM objective: size -> arm -> scores.
ARMS = ("ar", "diffusion", "ar2diff_0", "ar2diff_n1", "ar2diff_n2")
TABLE_2 = {
    "base": {
        "ar": (33.27, 68.11, 5.5),
        "diffusion": (29.83, 77.41, 12.2),
        "ar2diff_0": (29.62, 64.77, 1.1),
        "ar2diff_n1": (29.41, 68.12, 4.4),
        "ar2diff_n2": (29.92, 71.87, 7.7),
    },
    "large": {
        "ar": (34.92, 78.43, 15.5),
        "diffusion": (29.36, 80.56, 12.2),
        "ar2diff_0": (31.14, 77.82, 3.3),
        "ar2diff_n1": (31.97, 79.62, 8.8),
        "ar2diff_n2": (32.20, 80.71, 10.0),
    },
    "xl": {
        "ar": (35.48, 84.08, 15.5),
        "diffusion": (29.30, 82.78, 18.8),
        "ar2diff_0": (32.36, 80.95, 6.6),
        "ar2diff_n1": (32.39, 80.71, 11.1),
        "ar2diff_n2": (32.55, 83.54, 15.5),
    },
}
CONVERSION_STEPS = {"ar2diff_0": 0, "ar2diff_n1": 10_000, "ar2diff_n2": 100_000}

# The diffusion model of size Base: (denoising steps, canvases) -> (F1, pass@80).
TABLE_3 = {
    (5, 8): (77.41, 5.5),
    (10, 8): (77.41, 12.2),
    (20, 8): (77.72, 16.7),
    (10, 4): (77.51, 11.1),
    (10, 16): (77.13, 13.3),
}
TABLE_3_TASKS = ("qa", "code")
# Ours shows the same for an arm that writes better after little training.
TABLE_3_ARMS = ("diffusion", "ar2diff_n2")

# Tokens -> how many times faster 10-step diffusion writes them than AR decoding does.
FIGURE_3 = {500: 10, 4000: 30}
FIGURE_3_STEPS = (10, 20, 50)
