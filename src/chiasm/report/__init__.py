"""RUN/report.html and the tables of the terminal."""
