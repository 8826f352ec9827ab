"""What MEG-CVPO is held against: rules, and Stable-Baselines3's learners with Lagrange multipliers."""
