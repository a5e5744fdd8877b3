module github.com/certvendor/certvendor/bench

go 1.26.0
