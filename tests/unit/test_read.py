"""read: one place that reads every file. The same content in every shape gives the same rows; what is malformed gives
one line that names file, place and field, and never a number."""
import codecs, json
import pytest
from hypothesis import given, settings, strategies as st
from povid_nb import coco, judge, pope
from povid_nb.benches import evaluate
from povid_nb.read import Schema, _image_id, read_json, read_rows

def chair_of(captions, annotations):
    return evaluate("chair", answers=captions, annotations=annotations)["chair"].scores()


CAPTIONS = [(42, "A cat on a couch."), (7, "Two dogs, and \"a\" bird."), (9, "Ein Hund, naïve \u2028 \u2014 über")]
TRUTH = {"42": ["cat", "couch"], "7": ["dog"], "9": ["person"]}


def lines(rows): return "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n"


def csv_text(rows, delimiter):
    quote = lambda value: '"' + str(value).replace('"', '""') + '"'
    return "\n".join([delimiter.join(rows[0]), *(delimiter.join(map(quote, r.values())) for r in rows)]) + "\n"


ROWS = [dict(image_id=i, caption=c) for i, c in CAPTIONS]
NAMED = [dict(image=f"COCO_val2014_{i:012}.jpg", text=c) for i, c in CAPTIONS]
SHAPES = {
    "jsonl": lines(ROWS), "list": json.dumps(ROWS), "pretty list": json.dumps(ROWS, indent=2),
    "mapping": json.dumps(dict(CAPTIONS)),
    "pretty mapping": json.dumps(dict(CAPTIONS), indent=4, ensure_ascii=False),
    "mapping of rows": json.dumps({i: dict(caption=c) for i, c in CAPTIONS}),
    "ids as text": lines([r | {"image_id": str(r["image_id"])} for r in ROWS]),
    "ids as floats": lines([r | {"image_id": float(r["image_id"])} for r in ROWS]),
    "leading zeros": lines([r | {"image_id": f"{r['image_id']:012}"} for r in ROWS]), "file names": lines(NAMED),
    "paths": lines([r | {"image": "val2014/" + r["image"]} for r in NAMED]),
    "csv": csv_text(ROWS, ","), "tsv": csv_text(ROWS, "\t"), "semicolons": csv_text(ROWS, ";"),
    "csv with file names": csv_text(NAMED, ","),
    "windows lines": lines(ROWS).replace("\n", "\r\n"), "windows csv": csv_text(ROWS, ",").replace("\n", "\r\n"),
    "blank lines": "\n" + lines(ROWS).replace("\n", "\n\n"),
    "no last line feed": lines(ROWS).rstrip("\n"),
    "the original's imgToEval": json.dumps({"overall": {"Bleu": 1},
                                            "imgToEval": {str(i): r for i, r in enumerate(ROWS)}}),
    "other columns": lines([r | {"id": n, "model": "m", "prompt": "Describe this image."}
                            for n, r in enumerate(ROWS)]),
    "spaces in the header": csv_text([{f" {k}": v for k, v in r.items()} for r in ROWS], ",")}
ENCODINGS = {"utf-8": b"", "utf-8-sig": b"", "utf-16": b"", "utf-16-le": codecs.BOM_UTF16_LE,
             "utf-16-be": codecs.BOM_UTF16_BE, "utf-32": b""}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_content_in_every_shape_is_one_number(shape, encoding, tmp_path):
    (tmp_path/"odd.name").write_bytes(ENCODINGS[encoding] + SHAPES[shape].encode(encoding))
    (tmp_path/"t").write_text(json.dumps(TRUTH))
    assert coco.read_captions(tmp_path/"odd.name") == [(str(i), c) for i, c in CAPTIONS]
    assert chair_of(tmp_path/"odd.name", tmp_path/"t")["chair_i"].value == 1/4     # cat, couch, dog, and a bird


@given(st.permutations(ROWS))
@settings(max_examples=6, deadline=None)
def test_the_order_of_rows_changes_nothing(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("o")
    (folder/"c").write_text(lines(rows))
    (folder/"t").write_text(json.dumps(TRUTH))
    s = chair_of(folder/"c", folder/"t")
    assert (s["chair_s"].value, s["chair_i"].value, s["recall"].value) == (1/3, 1/4, 3/4)


@pytest.mark.parametrize("given, id",
                         [(42, "42"), (42.0, "42"), ("42", "42"), (" 42 ", "42"), ("000042", "42"),
                          ("COCO_train2014_000000000042.jpg", "42"), ("a/b/42.png", "42"),
                                       ("C:\\x\\42.JPG", "42"), ("AMBER_42.jpg", "AMBER_42"),
                          ("photo_0042", "photo_0042"), ("0", "0"), ("x.y", "x.y")])
def test_image_ids(given, id): assert _image_id(given) == id


# ---- What is malformed: (file, what must stand in the one line) -----------------------------------------------------

row = lambda **k: json.dumps(dict(image_id=42, caption="A cat.") | k)
BAD_CAPTIONS = {
    "": "empty", " \n\n ": "empty", "[]": "no rows", "{}": "no rows", "null": "expected rows or a mapping, found null",
    "3": "found a number", '"x"': "found text", "true": "found true or false",
    "hello": "neither JSON nor a table", "a,b\n1,2\n": "neither JSON nor a table", "{": "not JSON", "[": "not JSON",
    "[1,": "not JSON", "{\n}x": "not JSON", "[{]": "not JSON",
    row() + "\n" + row(image_id=7)[:-9]: "line 2: not JSON", row() + "\n{'image_id': 7}": "line 2: not JSON",
    row() + ",\n" + row(): "line 1: not JSON", "[1, 2]": "row 1: expected an object, found a number",
    "[null]": "row 1: expected an object, found null", '["A cat."]': "row 1: expected an object, found text",
    "[[42, 1]]": "row 1: expected an object, found a list",
    row() + "\n[1]": "line 2: expected an object, found a list",
    row() + "\nnull": "line 2: expected an object, found null", "1\n2": "line 1: expected an object, found a number",
    '{"image_id": 42}': "row 1: no caption; the row has image_id",
    '{"caption": "A cat."}': "row 1: no image_id; the row has caption",
    row(image_id=None): "field image_id: expected an id, found null",
    row(image_id=True): "field image_id: expected an id, found true or false",
    row(image_id=4.5): "field image_id: expected an id, found a number",
    row(image_id=""): "field image_id: expected an id, found an empty text",
    row(image_id=[42]): "field image_id: expected an id, found a list",
    row(image_id={"id": 4}): "field image_id: expected an id, found an object",
    row(caption=None): "field caption: expected text, found null",
    row(caption=3): "field caption: expected text, found a number",
    row(caption=["A cat."]): "field caption: expected text, found a list",
    row(caption={"text": "x"}): "field caption: expected text, found an object",
    row(caption=False): "field caption: expected text, found true or false",
    row(text="Describe."): "caption and text may each hold the reply",
    row(answer="x", response="y"): "may each hold the reply",
    '{"id": 1, "caption": "A cat."}': "no image_id", row() + "\n" + row(): "line 1 and line 2: both are image_id 42",
    row() + "\n" + row(image_id="42"): "both are image_id 42",
    row() + "\n" + row(image_id="COCO_val2014_000000000042.jpg", caption="B."): "both are image_id 42",
    '{"42": "a", "42": "b"}': "the key '42' stands twice", '{"42": "a", "042": "b"}': "both are image_id 42",
    '{"42": null}': "key '42': field caption: expected text, found null",
    '{"42": 3}': "key '42': field caption: expected text, found a number",
    '{"42": ["a"]}': "key '42': field caption: expected text, found a list",
    '{"42": {}}': "key '42': no caption",
    '{"": "a cat"}': "key '': field image_id: expected an id, found an empty text",
    '{"42": NaN}': "NaN is no JSON value", "image_id,caption\n42\n": "row 1: fewer columns",
    "image_id,caption\n42,a,b\n": "row 1: more columns", "image_id,caption\n": "no rows",
    "image_id,words\n42,a\n": "row 1: no caption", "image_id,image_id,caption\n1,2,a\n": "a column name stands twice",
    "image_id,caption\n,a\n": "field image_id: expected an id, found an empty text",
    "image_id,caption\n42,\"a\n": "not a table", "image_id\tcaption\n42\ta\n42\tb\n": "both are image_id 42",
    "[" * 100_000: "nested too deeply|not JSON", '{"a":' * 100_000: "nested too deeply|not JSON",
    row(image_id=99): "1 of 1 images have no annotation",
    '{"image_id": 42, "caption": "x", "caption": "y"}': "stands twice"}


@pytest.mark.parametrize("text", BAD_CAPTIONS, ids=lambda t: t[:40].encode("unicode_escape").decode())
def test_malformed_captions(text, tmp_path):
    (tmp_path/"c.jsonl").write_text(text)
    (tmp_path/"t.json").write_text(json.dumps(TRUTH))
    one_line(lambda: chair_of(tmp_path/"c.jsonl", tmp_path/"t.json"), BAD_CAPTIONS[text], "c.jsonl")


def one_line(call, says, file):
    with pytest.raises((ValueError, OSError), match=says) as error: call()
    message = str(error.value)
    assert "\n" not in message and file in message and len(message) < 400, message


instances = dict(images=[dict(id=42)], categories=[dict(id=1, name="cat")],
                 annotations=[dict(image_id=42, category_id=1)])
coco_json = lambda **k: json.dumps(instances | k)
BAD_TRUTHS = {
    "": "empty", "[]": "no rows", "{}": "no rows", "[1]": "row 1: expected an object", "7": "found a number",
    coco_json(annotations=[]): "images without annotations", coco_json(annotations=None): "images without annotations",
    json.dumps(dict(images=[dict(id=1)], categories=[])): "images without annotations",
    coco_json(annotations=[dict(image_id=42)]): "annotation 1: neither category_id nor caption",
    coco_json(annotations=[dict(category_id=1)]): "row 1: no image_id",
    coco_json(annotations=[dict(image_id=42,
                                category_id=9)]): "annotation 1: category 9 is none of the file's categories",
    coco_json(annotations=[dict(image_id=None, category_id=1)]): "field image_id: expected an id, found null",
    coco_json(annotations=[7]): "row 1: expected an object, found a number",
    coco_json(categories=[dict(id=1)]): "no name",
    coco_json(categories=[dict(id=1, name="unicorn")]): "the annotations name 'unicorn'",
    coco_json(images=[dict(file_name="x")]): "no id",
    coco_json(annotations=[dict(image_id=42, caption=3)]): "field caption: expected text, found a number",
    '{"42": ["unicorn"]}': "name 'unicorn', which is none of the 80 kinds",
    '{"42": "cat"}': "image 42: expected a list of object names, found text",
    '{"42": 3}': "expected a list of object names, found a number",
    '{"42": null}': "expected a list of object names, found null", '{"42": [1]}': "expected a list of object names",
    '{"42": {"cat": "two"}}': "expected how many of each, found 'two'",
    '{"42": {"cat": true}}': "expected how many of each, found True",
    '{"42": {"cat": -1}}': "expected how many of each, found -1",
    '{"42": ["cat"], "42": []}': "the key '42' stands twice", '{"42": ["cat"], "042": []}': "both are image 42",
    '{"image": "42.jpg"}': "no objects",
    '{"image": "42.jpg", "objects": ["cat"]}\n{"image": "42.jpg", "objects": []}': "line 1 and line 2: both are "
    "image 42", '{"objects": ["cat"]}': "no image"}


@pytest.mark.parametrize("text", BAD_TRUTHS, ids=lambda t: t[:60])
def test_malformed_truths(text, tmp_path):
    (tmp_path/"t.json").write_text(text)
    (tmp_path/"c.jsonl").write_text(row())
    call = lambda: chair_of(tmp_path/"c.jsonl", tmp_path/"t.json")
    if "name 'unicorn'" in BAD_TRUTHS[text] or "image 42" in BAD_TRUTHS[text] and "both" not in BAD_TRUTHS[text]:
        one_line(call, BAD_TRUTHS[text], "42")
    else: one_line(call, BAD_TRUTHS[text], "t.json")


def test_a_count_of_nothing_is_nothing_there():
    assert coco.read_truths({"1": {"cat": 0, "dog": 2}}) == {"1": {"dog"}}


def test_published_objects_files_and_the_two_halves_of_cocos_truth(tmp_path):
    (tmp_path/"o.json").write_text('{"image": "COCO_val2014_000000000042.jpg", "objects": ["person", "baseball '
                                   'bat"]}\n{"image": "COCO_val2014_000000000007.jpg", "objects": []}\n')
    assert coco.read_truths(tmp_path/"o.json") == {"42": {"person", "baseball bat"}, "7": set()}
    (tmp_path/"i.json").write_text(coco_json())
    (tmp_path/"k.json").write_text(json.dumps(dict(annotations=[dict(image_id=42, caption="A couch.")])))
    (tmp_path/"c.json").write_text(row(caption="A cat on a couch."))
    both = chair_of(tmp_path/"c.json", [tmp_path/"i.json", tmp_path/"k.json"])
    assert both["chair_s"].value == 0 and "warnings" not in both.protocol
    for half, name in (("i.json", "masks"), ("k.json", "captions")):
        out = chair_of(tmp_path/"c.json", tmp_path/half).to_dict()
        assert out["chair_s"] == 1
        assert out["protocol"]["warnings"] == [f"the truth is from {name} alone; CHAIR takes masks and human captions"]


question = lambda **k: json.dumps(dict(question_id=1, image="1.jpg", text="Is there a cat?", label="yes") | k)
BAD_QUESTIONS = {
    "": "empty", "[]": "no rows", "[null]": "expected an object, found null",
    question(label="maybe"): "field label: expected yes or no, found 'maybe'",
    question(label=None): "field label: expected yes or no, found None",
    question(label=1): "field label: expected yes or no, found 1",
    question(text=None): "field text: expected text, found null",
    question(question_id=None): "field question_id: expected an id, found null",
    question(image=["a"]): "field image: expected an id, found a list", '{"question_id": 1, "text": "?"}': "no label",
    '{"text": "?", "label": "yes"}': "no question_id", question() + "\n" + question(): "both are question_id 1",
    question() + "\n" + question(question_id="1"): "both are question_id 1", question()[:-5]: "not JSON",
    question() + "\nx": "line 2: not JSON", "question_id,text,label\n1,?,perhaps\n": "field label: expected yes or no"}


@pytest.mark.parametrize("text", BAD_QUESTIONS, ids=lambda t: t[:60])
def test_malformed_questions(text, tmp_path):
    (tmp_path/"q.json").write_text(text)
    one_line(lambda: pope.read_questions(tmp_path/"q.json"), BAD_QUESTIONS[text], "q.json")


answer = lambda **k: json.dumps(dict(question_id=1, text="Yes") | k)
BAD_ANSWERS = {
    "": "empty", "[3]": "expected an object", '"yes"': "found text",
    answer(text=None): "field text: expected text, found null",
    answer(text=True): "field text: expected text, found true or false",
    answer(question_id=None): "needs its question_id",
    answer(question_id=[1]): "field question_id: expected an id, found a list",
    answer(answer="No"): "text and answer may each hold the reply", '{"question_id": 1}': "no text",
    '{"text": "Yes"}': "every answer needs its question_id",
    answer() + "\n" + answer(): "line 1 and line 2: both are question_id 1",
    answer() + "\n" + answer(question_id=1.0, text="No"): "both are question_id 1", answer()[:-3]: "not JSON",
    '{"1": "Yes", "1": "No"}': "stands twice", answer(question_id=2): "1 of 1 questions have no answer",
    answer(question="Is there a dog?"): "names another question", answer(image="2.jpg"): "names another image 2.jpg",
    '{"question": "Is there a dog?", "answer": "yes"}': "names another question",
    '{"question": "Is there a cat?", "answer": "yes"}\n{"question": "Is there a cat?", "answer": "no"}':
        "2 answers without ids to 1 questions"}


@pytest.mark.parametrize("text", BAD_ANSWERS, ids=lambda t: t[:60])
def test_malformed_answers(text, tmp_path):
    (tmp_path/"q.json").write_text(question())
    (tmp_path/"answers.json").write_text(text)
    inside = any(word in BAD_ANSWERS[text] for word in ("names another", "without ids", "have no answer"))
    one_line(lambda: evaluate("pope", answers=tmp_path/"answers.json", questions=tmp_path/"q.json"), BAD_ANSWERS[text],
             "question" if inside else "answers.json")


record = lambda **k: [dict(question="Q?", gt_answer="R", image_content=["cup"], model_answer="A") | k]
JUDGED = [
    (lambda f: judge.mmhal(None, record(image_content="cup")), "field image_content"),
    (lambda f: judge.mmhal(None, record(image_content=[1])), "field image_content.0: expected text"),
    (lambda f: judge.mmhal(None, record(model_answer=None)), "field model_answer: expected text, found null"),
    (lambda f: judge.mmhal(None, record(question=3)), "field question: expected text"),
    (lambda f: judge.mmhal(None, []), "no rows"), (lambda f: judge.mmhal(None, [7]), "expected an object"),
    (lambda f: judge.mmvet(None, {"v1": {"question": "?"}}, {"v1": "x"}), "no answer"),
    (lambda f: judge.mmvet(None, {"v1": dict(question="?", answer="3", capability="ocr")}, {"v1": "x"}),
     "field capability"),
    (lambda f: judge.mmvet(None, {"v1": dict(question="?", answer=3)}, {"v1": "x"}), "field answer: expected text"),
    (lambda f: judge.mmvet(None, {"v1": dict(question="?", answer="3")}, {"v1": None}),
     "key 'v1': field text: expected text, found null"), (lambda f: judge.mmvet(None, {}, {}), "no rows")]


@pytest.mark.parametrize("call, says", JUDGED, ids=[says for _, says in JUDGED])
def test_malformed_records_for_the_judge(call, says, tmp_path): one_line(lambda: call(tmp_path), says, "input")


BYTES = {b"\xff\xfe\x00": "not text|not JSON|empty|NUL", b"caption \xe9": "not text in utf-8", b"\x00\x01\x02": "NUL",
         b"\x89PNG\r\n\x1a\n\x00": "not text", b"PK\x03\x04\x00": "NUL|not text", b"\x1f\x8b\x08\x00": "not text",
         codecs.BOM_UTF16_LE + b"a": "not text in utf-16"}


@pytest.mark.parametrize("data", BYTES)
def test_what_is_no_text(data, tmp_path):
    (tmp_path/"c.json").write_bytes(data)
    for read in (coco.read_captions, coco.read_truths, pope.read_questions, read_json):
        one_line(lambda: read(tmp_path/"c.json"), BYTES[data], "c.json")


def test_no_file_and_a_folder(tmp_path):
    for path in (tmp_path/"none.json", tmp_path):
        with pytest.raises(OSError, match=path.name): coco.read_captions(path)


def test_the_corpus_is_large_enough():
    assert sum(map(len, (BAD_CAPTIONS, BAD_TRUTHS, BAD_QUESTIONS, BAD_ANSWERS, JUDGED, BYTES))) >= 140


@given(st.one_of(st.text(max_size=60),
                 st.recursive(st.none() | st.booleans() | st.integers(-9, 99) | st.text(max_size=5),
                              lambda c: st.lists(c, max_size=3)
                              | st.dictionaries(st.sampled_from(["image_id", "caption", "text", "42", "x"]), c,
                                                max_size=3), max_leaves=8).map(json.dumps)))
@settings(max_examples=300, deadline=None)
def test_any_file_at_all_is_read_or_refused_in_one_line(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("any")/"f.json"
    file.write_text(text)
    for read in (coco.read_captions, coco.read_truths, pope.read_questions):
        try: read(file)
        except ValueError as error: assert "\n" not in str(error)


class Two(Schema):
    a: int


def test_fields_of_a_schema_are_named():
    with pytest.raises(ValueError, match="input, row 2: field a: "): read_rows([dict(a=1), dict(a="x")], Two)
