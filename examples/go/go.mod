module paint

go 1.19
