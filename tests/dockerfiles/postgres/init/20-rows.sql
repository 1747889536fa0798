INSERT INTO plants VALUES ('fern', 40), ('oak', 2400), ('moss', 2);
