-- Which provider the last attempt was asked of. NULL: none yet, and until then it is the one of `provider`.
ALTER TABLE calls ADD COLUMN carried_by text;
