"""Optuna studies over the settings of a training: `gesturepose search` and `gesturepose promote`."""

import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line a trial, beside a progress bar that says it
