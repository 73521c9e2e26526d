package source

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// parseIndexFile reads an index whose file has a certain extension.
func parseIndexFile(in io.Reader, extension string) ([]Item, error) {
	switch extension {
	case ".jsonl":
		return parseJSONLines(in)
	case ".tsv":
		return parseTable(in, '\t')
	}
	return parseIndex(in)
}

// parseJSONLines reads an object per line, with a field "path" and perhaps a "label", a text or a number.
func parseJSONLines(in io.Reader) ([]Item, error) {
	var items []Item
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLineBytes)
	number := 0
	for lines.Scan() {
		number++
		text := bytes.TrimSpace(bytes.TrimPrefix(lines.Bytes(), []byte("\xef\xbb\xbf")))
		if len(text) == 0 {
			continue
		}
		var row struct {
			Path  string `json:"path"`
			Label any    `json:"label"`
		}
		if err := json.Unmarshal(text, &row); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		var err error
		if items, err = appendItem(items, Item{Path: strings.TrimSpace(row.Path), Label: labelText(row.Label)}, number); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w (limit %d bytes)", number+1, err, maxLineBytes)
	}
	return items, nil
}

// parseTable reads columns that a certain character separates.
func parseTable(in io.Reader, separator rune) ([]Item, error) {
	text, err := readText(in)
	if err != nil {
		return nil, err
	}
	return parseCSV(text, separator)
}

func readText(in io.Reader) ([]byte, error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // spreadsheets write a byte order mark
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, errors.New("not a text file: it holds a zero byte")
	}
	return bytes.TrimLeft(text, " \t\r\n"), nil
}

// parseIndex reads an index of either form; the first line tells which: with a comma it is CSV.
func parseIndex(in io.Reader) ([]Item, error) {
	text, err := readText(in)
	if err != nil {
		return nil, err
	}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	if bytes.IndexByte(first, ',') >= 0 || strings.EqualFold(string(bytes.TrimSpace(first)), "path") {
		return parseCSV(text, ',')
	}
	return parseSpaced(text)
}

// parseCSV reads "path,label,…". A first record with a field "path" is a header and says where the columns are.
func parseCSV(text []byte, separator rune) ([]Item, error) {
	reader := csv.NewReader(bytes.NewReader(text))
	reader.Comma = separator
	reader.FieldsPerRecord = -1
	reader.TrimLeadingSpace = true
	reader.ReuseRecord = true
	var items []Item
	pathColumn, labelColumn, headed := 0, 1, false
	for first := true; ; first = false {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			if headed {
				return items, nil
			}
			return items, noHeader(items)
		}
		if err != nil {
			return nil, err // names line and column
		}
		if first {
			names := make([]string, len(record))
			for i, name := range record {
				names[i] = strings.ToLower(strings.TrimSpace(name))
			}
			if i := slices.Index(names, "path"); i >= 0 {
				pathColumn, labelColumn, headed = i, slices.Index(names, "label"), true
				continue
			}
		}
		line, _ := reader.FieldPos(0)
		item := Item{Path: column(record, pathColumn), Label: column(record, labelColumn)}
		if items, err = appendItem(items, item, line); err != nil {
			return nil, err
		}
	}
}

func column(record []string, i int) string {
	if i < 0 || i >= len(record) {
		return ""
	}
	return strings.TrimSpace(record[i])
}

// noHeader refuses an index that begins with a header of its own, which would be a video that is missing. A name without an
// extension may be a folder of frames, so that of the next line counts too.
func noHeader(items []Item) error {
	if len(items) < 2 || strings.ContainsAny(items[0].Path, "./") || !hasExtension(items[1].Path, videoExtensions) {
		return nil
	}
	return errors.New("line 1 looks like a header: name the column of the files path, and that of labels label; if it is a folder of frames, put a header above it")
}

// parseSpaced reads "path label", with or without a first line that says so. Paths may hold spaces: the label is what follows the last one, unless that
// ends like a video's name, for then the line is a path alone.
func parseSpaced(text []byte) ([]Item, error) {
	var items []Item
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxLineBytes)
	number, headed := 0, false
	for lines.Scan() {
		number++
		item := Item{Path: strings.TrimSpace(lines.Text())}
		if number == 1 && slices.Equal(strings.Fields(strings.ToLower(item.Path)), []string{"path", "label"}) {
			headed = true
			continue
		}
		if item.Path == "" {
			continue
		}
		if i := strings.LastIndexAny(item.Path, " \t"); i >= 0 && !hasExtension(item.Path[i+1:], videoExtensions) {
			item.Path, item.Label = strings.TrimSpace(item.Path[:i]), item.Path[i+1:]
		}
		var err error
		if items, err = appendItem(items, item, number); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w (limit %d bytes)", number+1, err, maxLineBytes)
	}
	if headed {
		return items, nil
	}
	return items, noHeader(items)
}

func appendItem(items []Item, item Item, line int) ([]Item, error) {
	switch {
	case item.Path == "":
		return nil, fmt.Errorf("line %d: no path", line)
	case strings.ContainsRune(item.Path, 0):
		return nil, fmt.Errorf("line %d: a path with a zero byte", line)
	case len(item.Path) > maxLineBytes:
		return nil, fmt.Errorf("line %d: a path of %d bytes (limit %d)", line, len(item.Path), maxLineBytes)
	case len(items) == maxItems:
		return nil, fmt.Errorf("line %d: more than %d files", line, maxItems)
	}
	return append(items, item), nil
}
