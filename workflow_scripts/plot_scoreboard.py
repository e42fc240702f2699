"""Draw the scoreboard."""

from vlmdiff.runtime.job import job

with job(snakemake):
    from vlmdiff.figures.save import save_figure
    from vlmdiff.figures.scoreboard import scoreboard
    from vlmdiff.tables.io import read_table
    from vlmdiff.tables.scoreboard import SCOREBOARD

    figure = scoreboard(read_table(snakemake.input.board, SCOREBOARD))
    save_figure(figure, [snakemake.output.pdf, snakemake.output.svg, snakemake.output.png])
