-- From schema 1 to 2. What is added here stands in schema.sql, too; a test compares the two.

ALTER TABLE run ADD COLUMN caused_by TEXT;
CREATE INDEX run_caused ON run (namespace, caused_by) WHERE caused_by IS NOT NULL;
