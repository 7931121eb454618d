"""Texts and what the rules must say about them: evasions by the rule that must catch them, and what nothing may catch."""

# A list as an administrator may add it: words of several languages, phrases, and short words that many innocent ones contain.
SAMPLE_TERMS = [
    "scam", "scammer", "idiot", "shit", "fuck", "ass", "cum", "penis", "rape", "tit", "cocaine", "viagra", "casino", "sex", "nazi",
    "bastard", "cock", "coon", "spic", "hell", "damn", "crap", "moron", "pay cash", "send nudes", "дурак", "мошенник", "骗子", "赌博",
    "사기꾼", "詐欺", "احتيال", "धोखा", "βλάκας", "lừa đảo", "aptal", "schwindel", "Müll", "mâle", "คนโกง",
]
DENIED_DOMAINS = ["evil.io", "bad-deals.com", "xn--mnchen-3ya.de"]

EVASIONS = {
    "sample_terms": [
        "you are a scam", "SCAM", "ScAm!!", "this is a s c a m", "s.c.a.m", "s-c-a-m", "s_c_a_m", "s*c*a*m", "s/c/a/m", "s  c  a  m", "$cam", "sc4m",
        "5cam", "$c@m", "scaaaaam", "sscccaaammm", "s c 4 m", "ѕсаm", "scаm", "ｓｃａｍ", "𝓼𝓬𝓪𝓶", "𝗌𝖼𝖺𝗆", "𝕤𝕔𝕒𝕞", "ⓢⓒⓐⓜ", "🅂🄲🄰🄼", "🅢🅒🅐🅜", "🆂🅲🅰🅼", "🇸🇨🇦🇲", "ꜱᴄᴀᴍ",
        "s\u200bc\u200ba\u200bm", "s\u00adc\u00ada\u00adm", "s\u2060cam", "s\ufe0fcam", "s\u200dcam", "s̷c̴a̵m̶", "śčàm", "ŝçåɱ", "s🔥c🔥a🔥m", "s…c…a…m", "s · c · a · m", "s,c,a,m",
        "SCAAM!!!!! SCAAAM", "sc@m", "ѕᴄαм", "what a sh1t", "sh!t", "s#it", "sh*t", "s**t", "shiiiit", "5h1t", "5h!t", "sh|t", "f*ck", "f**k this", "fu ck", "f u c k",
        "f.u.c.k", "fuuuuuck", "fuuucckk", "fuc k", "f-u-c-k", "f_u_c_k", "fսck", "ƒuck", "fцck", "ꓝuck", "F U C K  Y O U", "f\nu\nc\nk", "FÙCK", "f⃝u⃝c⃝k⃝",
        "1d10t", "id10t", "ıdıot", "i d i o t", "!diot", "1diot", "idi0t", "you are an i.d.i.o.t", "a$$", "@ss", "4ss", "a s s", "p3n1s", "p e n i s", "pen1s", "c0ck", "c0ca1ne",
        "coc@ine", "c o c a i n e", "v1agra", "v.i.a.g.r.a", "vi@gr@", "V I A G R A", "viagraaa", "c4sino", "cas1no", "cаsіnо", "ca$ino", "b4stard", "b@st@rd", "m0r0n",
        "morrronn", "pay  cash", "PAY CASH", "p@y cash", "pay-cash", "pay c@sh", "send nudes", "s3nd nud3s", "send_nudes", "ДУРАК", "дурaк", "дуpак", "Д у р а к", "д.у.р.а.к", "дуpаk",
        "мошенник", "МОШЕННИК", "м0шенник", "骗子", "你是骗子吗", "骗 子", "骗。子", "别去赌博网站", "사기꾼", "사기꾼입니다", "그는 사기꾼이야", "あなたは詐欺ですか", "احتيال", "اِحْتِيَال", "احتـــيال", "هذا احتيال",
        "यह धोखा है", "ΒΛΑΚΑΣ", "βλακας", "βλάκας", "LỪA ĐẢO", "lua dao", "Aptal", "APTAL", "APTALLL", "Schwindel", "SCHW1NDEL", "müll", "MULL", "m.ü.l.l", "นี่คือคนโกงนะ", "s ᴄ a m",
        "u r a s c a m", "you s c a m m e r", "ꮪᴄꭺꮇ", "ѕ.с.а.м", "s\u0336c\u0336a\u0336m\u0336", "da.mn", "d a m n", "dаmn", "d4mn", "cr4p", "CRAAAP", "n4zi", "n@z1", "s3x", "S.E.X", "s e x",
        "s\u2063e\u2063x", "𝐬𝐞𝐱", "ˢᵉˣ", "ₛₑₓ", "s e\u00a0x", "ﬆupid scam", "❌scam❌", "(scam)", "scam-artist", "\"scam\"", "scam/fraud", "#scam", "scam.", "scam's", "it's a scam", "l'scam",
    ],
    "contact_details": [
        "mail me: ada@example.com", "ada.byron+work@mail.example.co.uk", "ADA@EXAMPLE.COM", "ada@gmail.com", "ada @ gmail.com", "ada@ gmail .com", "ada(at)gmail.com", "ada [at] gmail [dot] com",
        "ada{at}gmail{dot}com", "ada (at) gmail (dot) com", "ada at gmail dot com", "ada AT gmail DOT com", "name AT gmail . com", "ada at gmail com", "ada.byron at gmail.com", "ada＠gmail．com",
        "ａｄａ＠ｇｍａｉｌ．ｃｏｍ", "аda@gmail.соm", "ada@gmail[.]com", "ada@gmail(.)com", "ada_b@yahoo.co.in", "ada arroba gmail punto com", "ada arroba gmail.com", "ada arobase gmail point com",
        "ada chiocciola libero punto it", "ada ät gmx punkt de", "ada at gmx punkt de", "ada собака mail точка ru", "ada małpa wp kropka pl", "mailto:ada@example.org", "ada\u200b@\u200bgmail.com",
        "ada dot byron at gmail dot com", "ada <at> gmail <dot> com", "write to ada@münchen.de", "𝐚𝐝𝐚@𝐠𝐦𝐚𝐢𝐥.𝐜𝐨𝐦", "ⓐⓓⓐ@gmail.com",
        "my email is ada99 at hotmail dot com", "adabyron gmail com", "почта ada@yandex.ru", "邮箱ada@qq.com", "メールはada@example.jpです", "이메일 ada@naver.com",
        "call me +49 151 23456789", "+491512345678", "+1 (415) 555-2671", "(415) 555-2671", "415-555-2671", "415.555.2671", "415 555 2671", "1-415-555-2671", "call 4155552671", "0151 23456789",
        "0151-23456789", "0151/23456789", "0151.234.567.89", "0 1 5 1 2 3 4 5 6 7 8", "0-1-5-1-2-3-4-5-6-7-8", "01512345678", "O151 23456789", "0151 234567 8O", "O15l 2345678",
        "07911 123456", "020 7946 0958", "06 12 34 56 78", "06.12.34.56.78", "06-12-34-56-78", "+33 6 12 34 56 78", "0033612345678", "llámame al 612 345 678", "mi número es 612345678",
        "8 (916) 123-45-67", "8-916-123-45-67", "89161234567", "+7 916 123 45 67", "позвони мне 89161234567", "номер 9161234567", "+91 98765 43210", "98765 12345", "+86 138 0013 8000", "138 0013 8000",
        "电话13800138000", "13800138000", "打我138-0013-8000", "090-1234-5678", "010-1234-5678", "전화 010 1234 5678", "+82 10 1234 5678", "+55 11 91234-5678", "11 91234-5678", "٠١٠١٢٣٤٥٦٧٨", "اتصل ٠١٠١٢٣٤٥٦٧٨",
        "+٢٠١٠١٢٣٤٥٦٧٨", "０１５１２３４５６７８", "𝟎𝟏𝟓𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖", "0️⃣1️⃣5️⃣1️⃣2️⃣3️⃣4️⃣5️⃣6️⃣7️⃣8️⃣", "⓪①⑤①②③④⑤⑥⑦⑧", "०१५१२३४५६७८", "zero one five one two three four five six seven eight", "oh one five one, two three four",
        "zero-one-five-one-two-three-four", "ZERO ONE FIVE ONE TWO THREE FOUR", "null eins fünf eins zwei drei vier fünf", "seis uno dos tres cuatro cinco seis siete ocho", "zéro six un deux trois quatre cinq six",
        "восемь девять один шесть один два три четыре пять", "four 1 five 5 five five 2 six 7 one", "一三八零零一三八零零零", "text me on 555 123 4567", "my number is 5551234567", "ruf mich an: 030 1234567",
        "tel. 030/123456", "Handy 0171-1234567", "whatsapp 0151 2345678", "WhatsApp: +49 151 2345678", "wa.me/491512345678", "https://wa.me/491512345678", "t.me/ada_byron", "https://t.me/joinchat/AAAA", "t . me / ada",
        "t(.)me/adabyron", "t dot me/adabyron", "telegram.me/ada", "discord.gg/abc123", "https://discord.com/invite/abc123", "instagram.com/adabyron", "facebook.com/ada.byron.5", "fb.me/adabyron", "m.me/adabyron",
        "snapchat.com/add/adabyron", "chat.whatsapp.com/ABCdef", "telegram: @ada_b", "telegram @ada_b", "@ada_b on telegram", "my insta is @ada_b", "insta: ada_b99", "ig: ada.byron", "IG @adabyron", "add me on snap as adabyron",
        "add me on telegram: adabyron", "find me on insta as ada.byron", "my telegram is adabyron", "Telegram: adabyron", "skype: live:adabyron1", "skype adabyron99", "my skype id is adabyron", "discord ada#1234", "discord: ada_b",
        "text me on whatsapp", "message me on telegram", "hit me up on signal", "let's talk on WhatsApp", "let's move to telegram", "schreib mir auf WhatsApp", "schreib mir bei Telegram", "escríbeme por WhatsApp",
        "écris-moi sur WhatsApp", "ajoute-moi sur snap", "scrivimi su WhatsApp", "me chama no zap", "напиши мне в телеграм", "пиши в вотсап", "мой тг @ada_b", "телеграм: @ada_b", "napisz na whatsapp",
        "加我微信 ada12345", "微信号：ada12345", "微信ada12345", "vx: ada12345", "qq号: ada12345", "카톡 아이디 adabyron", "카톡: adabyron", "LINE ID: adabyron", "line id adabyron", "viber 0171 1234567",
        "wechat id: ada12345", "WeChat: adabyron", "kik: adabyron", "تيليجرام @ada_b", "tg: @adab", "tg @ada_byron", "T: 0171-1234567", "snapchat: adabyron", "snap: adabyron99", "my gmail is adabyron",
    ],
    "links_denied": [
        "https://evil.io/x", "evil.io", "EVIL.IO", "www.evil.io", "shop.evil.io", "http://evil.io:8080/path", "https://paypal.com@evil.io", "https://user:pass@evil.io/", "evil dot io", "evil[.]io", "evil(.)io", "evil (dot) io",
        "evil [dot] io", "evil . io", "evil．io", "evil。io", "evil.io.", "еvil.io", "ｅｖｉｌ.io", "hxxp://evil.io", "hxxps://evil[.]io", "e\u200bvil.io", "see evil.io/login?x=1", "(evil.io)", "evil.io, please", "bad-deals.com",
        "BAD-DEALS dot COM", "https:\\\\evil.io", "ⓔvil.io", "𝐞𝐯𝐢𝐥.𝐢𝐨", "münchen.de", "https://xn--mnchen-3ya.de", "evil punkt io", "evil punto io", "ada@evil.io", "https://evil.io#frag", "//evil.io/x",
    ],
}

INNOCENT = [
    # everyday, and short
    "Hello", "1", "Message 17", "Hi there!", "ok", "OK.", "Thanks!", "Thank you so much :)", "See you tomorrow", "lol", "👍", "🙂🙂🙂", "❤️", "…", "?", "yes", "no", "Sure, no problem.", "Can you mend it by Friday?", "Sounds good to me.",
    "What's the status?", "I'll be there in 5 min", "It's hit or miss, isn't it?", "Who're you meeting?", "We'll see; she'll tell us, he'll agree.", "I can't, I won't, I shouldn't've.", "y'all come back", "rock 'n' roll", "the pen is mine",
    "The pen is on the table", "As is, where is", "an al dente pasta", "push it to the limit", "plan b it is", "vitamin C and D", "size S, M or L", "I am in. Are you?", "a b c d e", "A B C D E F G", "x y z", "to be or not to be",
    # words that contain others
    "Scunthorpe is nice", "I live in Essex and Sussex", "first class", "classic assessment", "assassin's creed", "grape juice", "therapist", "the therapist was great", "cocktail bar", "C O C K T A I L S", "peacock feathers", "Dickens novels",
    "shuttlecock", "hello shell", "Shellfish", "document", "cucumber salad", "accumulate", "circumstances", "title and subtitle", "attitude", "constitution", "raccoon", "cocoon", "suspicious", "conspicuous", "spice and spicy", "hospice",
    "skyscraper", "scrapbook", "crappie fishing", "condemnation", "Hellas", "Michelle", "seashells", "bass guitar", "mass assembly", "passage", "embassy", "glass", "occasion", "analysis", "analog", "canal", "banal",
    "Penistone", "happiness", "sextant", "sextet", "Middlesex", "unisex", "sussex", "shiitake mushrooms", "Matsushita", "mishit the ball", "arsenal", "Scampi", "scamper", "camscanner", "Idiom", "idiosyncratic", "oxymoron", "Mormon",
    "drape", "scrape", "drapery", "trapezoid", "grapefruit", "Nazareth", "Bastille", "wassail", "Cumbria", "document scanning", "incumbent", "Titan", "Titus", "Kittitian", "moroccan",
    # names
    "Dick Van Dyke", "Ada Lovelace", "Jürgen Müller-Lüdenscheidt", "Søren Kierkegaard", "Łukasz Żółć", "Nguyễn Văn An", "O'Brien and D'Angelo", "Jean-Luc Picard", "Mr. Hancock", "Ms. Sarah Peacock", "Anna Karenina",
    "李雷和韩梅梅", "김철수입니다", "山田太郎です", "Αλέξανδρος Παπαδόπουλος", "محمد عبد الله", "राहुल शर्मा", "Дмитрий Шостакович", "İbrahim Şahin", "Zoë & Chloë", "Wayne Rooney", "Sachin Tendulkar", "Jesús García", "María José", "Hans-Peter", "J. R. R. Tolkien",
    # prices and numbers
    "1,200 EUR", "1.200,50 €", "€1.200", "$45-50", "$1,234,567.89", "1 200 000 руб", "10 000 000 VND", "10.000.000 đồng", "₹12,34,567", "£99.99", "CHF 1'200.-", "100 USD per hour", "about 250-300 dollars", "50% off", "a budget of 1500000",
    "1 234 567", "12 345 678 views", "3.14159265358979", "2.718281828", "1234567 people", "The total is 1234567.89", "Total: 10000000", "USD 12500000", "5000000 rows", "10 20 30 40 50 60 70", "1 2 3 4 5 6 7 8 9 10", "1, 2, 3, 4, 5, 6, 7, 8",
    "one two three four five six seven", "one, two, three, four, five, six, seven, eight", "eins zwei drei vier fünf sechs sieben", "uno dos tres cuatro cinco seis siete", "2019 2020 2021 2022", "2019-2023", "from 1990 to 2005", "7/10", "3 x 4 = 12",
    "12345", "123456", "1000000", "100000000", "0.000001234", "1e10", "99.999999%", "4 - 5 hours", "24/7", "50/50", "1/2 cup", "two or three days", "five six seven",
    # dates and times
    "2026-11-22", "2026-11-22 10:30", "2026-11-22T10:30:00Z", "22.11.2026", "12.06.2026", "12/06/2026", "06/12/26", "12.06.2026 - 14.06.2026", "2026-11-22 - 2026-11-30", "12.-14.06.2026", "7pm-9pm", "10:30-12:45", "10.30 - 12.45", "at 10:30 on 12.06.2026",
    "2026-11-22 10:30:45.123456", "20261122", "20261122103045", "on 3.5. and 4.6.", "Mon 9-17, Sat 10-14", "9.00-17.00", "@ 5pm", "meet @ 5", "meet me at 5", "meet at the dot", "5 o'clock", "Q3 2026", "in 2026", "the 1990s", "22 Nov 2026", "11/22/2026 10:30 AM",
    "2026年11月22日", "2026년 11월 22일", "22 ноября 2026", "между 10:00 и 12:00", "de 10h30 à 12h45", "um 14 Uhr 30", "1.1.2026 31.12.2026",
    # identifiers
    "order #12345678", "order 1234567890", "Order number: 123-4567890-1234567", "invoice 2026-000123", "INV-2026-00123456", "gig 123456789", "ticket 4155552671", "ISBN 978-3-16-148410-0", "ISBN 9783161484100", "ISBN 3-16-148410-0",
    "6f1f1d3e-5a67-4c55-9b0e-0d7a4b1c2d3e", "id 00000000-0000-4000-8000-00000000000e", "DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "tracking 1Z999AA10123456784", "tracking number 00340434161094042557", "Sendungsnummer 00340434161094042557",
    "Rechnungsnummer 202611220815", "Bestellnummer 0123456789", "заказ 1234567890", "주문번호 2026112212345", "订单号 2026112212345678", "commit 3f2504e04f89", "sha 9e107d9d372bb6826bd81d3542a419d6", "v1.2.3", "version 10.0.19045.3803", "Python 3.11.7",
    "192.168.0.1", "192.168.100.200", "10.0.0.0/8", "::1", "fe80::1", "RFC 9457", "ISO 8601", "timestamp 1700000000", "unix time 1763806030", "part no. 4711-0815-99", "serial 1234-5678-9012", "model A55", "Galaxy A55", "iPhone 15 Pro Max", "Pixel 8a",
    "Boeing 747-400", "flight LH 1234", "flight BA2490 at gate B22", "EAN 4006381333931", "case 2026/12345", "ref: 0012345678", "customer 0123456789", "SKU 0123-4567-89", "PO 4500012345", "0x7fff5fbff8c0", "room 1204", "port 8080", "error 404", "h264 and mp3",
    "b2b and b2c", "3D printing in 4K", "R2D2 and C3PO", "K8s and i18n", "covid19", "mp4 files", "4x4", "win32", "utf8", "base64", "sha256", "md5sum", "x86_64",
    # sizes, places, addresses
    "120x80x40", "120 x 80 x 40 cm", "1920x1080", "210 x 297 mm", "52.5200, 13.4050", "52.520008 13.404954", "37.7749° N, 122.4194° W", "SW1A 1AA", "10115 Berlin", "75008 Paris", "12 Main Street", "221B Baker Street, London NW1 6XE", "Hauptstraße 5, 10115 Berlin",
    "1600 Pennsylvania Ave NW, Washington, DC 20500", "P.O. Box 1234", "5th Avenue 725", "Apt. 12, 3rd floor", "東京都千代田区1-1", "ул. Ленина, д. 5, кв. 12", "Calle Mayor 12, 28013 Madrid", "20 m²", "100 km/h", "5'11\"", "36-24-36", "between 100 and 200 g",
    # technical talk
    "Node.js and Next.js", "Use Vue.js or React", "e.g. this", "i.e. that", "ok.thanks", "see README.md", "main.py", "script.sh", "report.pdf", "archive.zip", "index.html", "app.module.ts", "System.out.println", "com.example.app", "user.name", "obj.id", "ASP.NET and VB.NET",
    "dot net developer", "socket.io", "C++ and C#", "c# developer", "a+b", "if (a && b) { return c; }", "SELECT * FROM t WHERE a = 1", "def f(x): return x*x", "a*b*c", "foo*bar", "*bold* and **bold**", "_italic_", "~/src/app", "/usr/local/bin", "and/or", "n/a", "w/o", "24.04 LTS",
    "const x = y ?? z;", "<div class=\"x\">", "key=value&x=1", "50% of 200", "#hashtag #another", "@media (max-width: 600px)", "npm install @types/node", "git commit -m 'fix'", "ssh root", "HTTP/1.1 200 OK", "localhost", "TCP/IP", "I/O", "24V DC", "5 GHz WiFi", "#ff00ff", "rgb(10, 20, 30)",
    "WhatsApp integration", "Can you build a WhatsApp bot?", "a Telegram bot with Python", "instagram ads", "Instagram marketing campaign", "my instagram is down", "facebook page design", "I design Facebook ads", "telegram is better than skype", "discord bot development",
    "signal strength is low", "the line is busy", "line 42", "snap out of it", "a skype call at 5pm", "Viber sticker pack", "LinkedIn profile review", "Twitter clone in React", "TikTok videos, 30 seconds", "WeChat mini program", "post it on Instagram as well", "three Instagram posts a week",
    "facebook pixel and Google Ads", "I have 10000 followers on instagram", "work at home", "look at this", "I work at a bank", "good at maths", "point of view", "polka dot dress", "dot the i", "connect the dots", "punto de vista", "der Punkt ist", "punt on it",
    # languages
    "Guten Tag, können Sie das bis Freitag schaffen?", "Das ist der Preis für beide Stücke.", "Ich hätte gern zwei davon, bitte.", "Bonjour, pouvez-vous le réparer avant vendredi ?", "Qu'est-ce que c'est ?", "C'est l'été, j'ai chaud.", "Hola, ¿puedes arreglarlo antes del viernes?", "Mañana por la tarde está bien.",
    "Ciao, puoi ripararlo entro venerdì?", "Va bene, a domani!", "Olá, você pode consertar até sexta?", "Muito obrigado!", "Hoi, kun je het voor vrijdag maken?", "Dzień dobry, czy zdążysz do piątku?", "Dziękuję bardzo", "Ahoj, jak se máš?", "Hej, kan du laga den till fredag?", "Merhaba, cuma gününe kadar yapabilir misin?",
    "Teşekkür ederim", "Xin chào, bạn có thể sửa trước thứ sáu không?", "Cảm ơn bạn rất nhiều", "Здравствуйте, вы сможете починить до пятницы?", "Спасибо большое, до завтра", "Сколько это стоит?", "Добрый день! Меня интересует ваш заказ.", "Привіт, як справи?", "Γεια σας, μπορείτε να το φτιάξετε μέχρι την Παρασκευή;",
    "Ευχαριστώ πολύ", "مرحبا، هل يمكنك إصلاحه قبل يوم الجمعة؟", "شكرا جزيلا", "السلام عليكم ورحمة الله", "שלום, אפשר לתקן עד יום שישי?", "नमस्ते, क्या आप शुक्रवार तक ठीक कर सकते हैं?", "बहुत धन्यवाद", "আপনি কেমন আছেন?", "வணக்கம்", "สวัสดีครับ ซ่อมได้ไหมครับ", "你好，星期五之前能修好吗？", "谢谢，明天见", "这个多少钱？",
    "我在北京工作，请问您什么时候有空？", "こんにちは、金曜日までに直せますか？", "ありがとうございます", "よろしくお願いします", "안녕하세요, 금요일까지 고칠 수 있나요?", "감사합니다", "출발 시발점에서 만나요", "Përshëndetje", "Sziasztok, mikor kész?", "Tere päevast", "Labas rytas", "Bună ziua", "Dobrý den", "Kia ora", "Mahalo", "Selamat pagi, bisa selesai hari Jumat?", "Sawubona",
    "Tak for hjælpen", "Takk skal du ha", "Kiitos paljon", "Go raibh maith agat", "Obrigado. Com certeza!", "Fin de semana", "Sim, pode ser.", "Tudo bem?", "Va bien", "Los dos son buenos", "une ou deux", "ein oder zwei", "два или три", "二三天", "三三两两", "Ich bin am Samstag da. Es ist wichtig.",
    "😀😃😄 party 🎉🎉", "Greetings from 🇩🇪 and 🇫🇷", "👨‍👩‍👧‍👦 family", "I ❤ NY", "★★★★★ great", "→ next", "• first • second", "„Zitat“ und «citation»", "100 % sure", "H₂O and CO₂", "x² + y²", "½ price", "™ and ©", "10 °C", "№ 5", "Ω and µ", "a → b", "(╯°□°)╯", "¯\\_(ツ)_/¯", ":-) ;-)",
]
