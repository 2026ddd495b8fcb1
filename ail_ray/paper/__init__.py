"""The study of the paper: its methods, tables and figures, its numbers beside ours, and the teacher's card."""
