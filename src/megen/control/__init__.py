"""The constrained Markov decision process of denoising steps and merge ratio: its tables, its exact optimum, its learners."""
