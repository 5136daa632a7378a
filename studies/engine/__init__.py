"""The parts that all studies share: jobs, their keys and runner, intervals, tables, pictures, reports."""
