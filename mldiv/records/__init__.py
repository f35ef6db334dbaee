"""What a study leaves behind: what it holds (contents), a study's folder (study_files), any file (checked_files)."""
