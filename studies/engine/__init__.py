"""What all studies are made of: jobs, their keys and runner, intervals, tables, pictures, reports."""
