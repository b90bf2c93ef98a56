package policyfile

import "strings"

// maxDiff bounds the lines of one policy that are compared; a longer one is shown as replaced.
const maxDiff = 3000

// around is how many unchanged lines are shown beside changed ones.
const around = 2

// diff lists the lines of a change, each with "+ ", "- " or "  " before it, and "  ..." where unchanged lines are left
// out. It is nil when the texts are equal.
func diff(before, after string) []string {
	if before == after {
		return nil
	}
	a, b := lines(before), lines(after)
	if len(a) > maxDiff || len(b) > maxDiff {
		return append(marked("- ", a), marked("+ ", b)...)
	}
	return shorten(compare(a, b))
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func marked(mark string, list []string) []string {
	out := make([]string, len(list))
	for i, line := range list {
		out[i] = mark + line
	}
	return out
}

// compare finds a longest common subsequence of lines.
func compare(a, b []string) []string {
	common := make([][]int32, len(a)+1)
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, "  "+a[i])
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}

// shorten leaves unchanged lines out that are far from changed ones.
func shorten(all []string) []string {
	near := make([]bool, len(all))
	for i, line := range all {
		if line[0] == ' ' {
			continue
		}
		for k := max(0, i-around); k <= min(len(all)-1, i+around); k++ {
			near[k] = true
		}
	}
	var out []string
	for i, line := range all {
		switch {
		case near[i]:
			out = append(out, line)
		case i == 0 || near[i-1]:
			out = append(out, "  ...")
		}
	}
	return out
}
