"""The tests; a package so that its folders never shadow the packages under test."""
