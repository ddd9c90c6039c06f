"""The execution controller: plan, launch, load, collect, analyse, report; the last three read a run directory only."""
