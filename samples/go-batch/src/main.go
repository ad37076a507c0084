// A batch program: counts the words of the files that it is given and prints the most frequent ones.
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"
)

// frequent gives the n most frequent words of a text with their counts; equally frequent ones by the alphabet.
func frequent(text string, n int) []string {
	counts := map[string]int{}
	for _, word := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return (r < 'a' || r > 'z') && r != '\''
	}) {
		counts[word]++
	}
	words := make([]string, 0, len(counts))
	for word := range counts {
		words = append(words, word)
	}
	sort.Slice(words, func(i, j int) bool {
		if counts[words[i]] != counts[words[j]] {
			return counts[words[i]] > counts[words[j]]
		}
		return words[i] < words[j]
	})
	lines := []string{}
	for _, word := range words[:min(n, len(words))] {
		lines = append(lines, fmt.Sprintf("%6d %s", counts[word], word))
	}
	return lines
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go-batch FILE...")
		os.Exit(2)
	}
	var text strings.Builder
	for _, name := range os.Args[1:] {
		content, err := os.ReadFile(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		text.Write(content)
		text.WriteByte('\n')
	}
	fmt.Println(strings.Join(frequent(text.String(), 5), "\n"))
}
