"""Tables and charts, and pages of them: of a report, of results, of a comparison."""
