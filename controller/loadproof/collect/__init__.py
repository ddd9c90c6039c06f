"""What is taken while a run goes on: scrapes, the balancer's log, and all of it into the run directory at its end."""
