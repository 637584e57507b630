"""`python -m deepergatgnn.training FOLDER --runs RUNS` trains a prepared run, see `experiments.portable_run`."""

from deepergatgnn.training.experiments.portable_run import main

main()
