CREATE TABLE plants (name text PRIMARY KEY, height integer NOT NULL CHECK (height > 0));
