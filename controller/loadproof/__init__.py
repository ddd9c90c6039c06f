"""The execution controller: plan, launch, load, collect; then analyse and report, which read a run directory only."""
