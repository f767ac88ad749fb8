"""The run folder: what it holds, who writes into it, and how an interrupted run resumes."""
