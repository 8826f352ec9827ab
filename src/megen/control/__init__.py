"""The constrained Markov decision process of steps and merge ratio: its kernel, its exact optimum, its learners."""
