module go-batch

go 1.21
