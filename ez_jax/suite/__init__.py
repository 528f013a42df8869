"""Many runs: a list that machines share, and what their results say together."""
